"""The protocol's decisions, driven message by message with a clock of our own."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import get_args

import pytest

from common.config import Config, PPOConfig, RNDConfig, RolloutConfig
from common.protocol import messages as m
from learner.server.admission import Admission
from learner.server.scheduler import AdmittedChunk
from learner.server.sessions import LEASE_SECONDS

CONFIG = Config(rollout=RolloutConfig(steps=5, lanes=2, batch_lanes=6), ppo=PPOConfig(minibatches=3))
ONE_PLACE = replace(
    CONFIG, rollout=RolloutConfig(steps=5, lanes=2, batch_lanes=2), ppo=PPOConfig(minibatches=1)
)
OVERLAPPED = replace(CONFIG, max_lag=1)
CHUNK = CONFIG.rollout.chunk_steps  # 10 steps; 3 places in a batch
EPOCH, TARGET, BODY = 4, bytes(32), b"arrays"


class Fleet:
    """An Admission, a clock, and what followed from the messages so far."""

    def __init__(self, generation: int = EPOCH, config: Config = CONFIG) -> None:
        self.admission, self.now = Admission(config, generation, TARGET), 100.0
        self.registry = self.admission.registry
        self.replies: list[tuple[bytes, m.Message]] = []
        self.chunks: list[AdmittedChunk] = []
        self.violations: list[str] = []

    def say(self, peer: str, message: m.Message) -> list[m.Message]:
        """Send a message; return the replies to that peer."""
        self.deliver(peer, message)
        return self.received(peer)

    def deliver(self, peer: str, message: m.Message, key: str = "") -> None:
        """Send a message and keep what follows from it."""
        result = self.admission.on(peer.encode(), message, self.now, key)
        self.replies += result.replies
        self.chunks += result.chunks
        self.violations += result.violations

    def received(self, peer: str) -> list[m.Message]:
        """Return the replies to that peer since the last call."""
        self.replies += self.registry.acknowledge()
        mine = [message for to, message in self.replies if to == peer.encode()]
        self.replies = [entry for entry in self.replies if entry[0] != peer.encode()]
        return mine

    def wait(self, seconds: float) -> None:
        """Let time pass in quarter turns of the loop, without traffic."""
        for _ in range(round(seconds * 4)):
            self.now += 0.25
            self.registry.tick(self.now)

    def hello(self, name: str, **facts: object) -> list[m.Message]:
        """Join, or come back, from the peer of that name."""
        values = {"generation": -1, "base": 0, "produced": 0, "former": {}} | facts
        return self.say(name, m.Hello(sid=sid(name), host="host", pid=1, software="0", **values))  # type: ignore[arg-type]

    def join(self, *names: str) -> None:
        """Join, say something, and forget the answers."""
        for name in names:
            self.hello(name)
            self.say(
                name, m.Heartbeat(sid=sid(name), generation=self.registry.generation, produced=0, stats={})
            )

    def chunk(self, name: str, offset: int = 0, version: int = 0, **facts: object) -> list[m.Message]:
        """Send a chunk."""
        values = {
            "generation": self.registry.generation,
            "steps": CHUNK,
            "fresh": offset == 0,
            "truncations": 0,
            "observation_bytes": 0,
            "crc": zlib.crc32(BODY),
            "body": BODY,
        } | facts
        produced = offset + int(str(values["steps"]))
        return self.say(
            name,
            m.ChunkMessage(sid=sid(name), version=version, offset=offset, produced=produced, **values),  # type: ignore[arg-type]
        )

    def open(self, version: int = 0) -> None:
        """Offer a batch and forget the Acks."""
        self.registry.open(version, self.now)
        self.registry.acknowledge()
        self.replies.clear()

    def granted(self) -> set[str]:
        """The sessions with an open grant."""
        return {
            session.sid.decode().strip()
            for session in self.registry.sessions
            if self.registry.scheduler.is_collecting(session.sid)
        }

    def arrived(self) -> list[tuple[str, int]]:
        """Who filled the batch, in order of chunk, with which offset."""
        return [(a.message.sid.decode().strip(), a.message.offset) for a in self.chunks]

    def dropped(self) -> dict[str, int]:
        """Steps by reason; the books balance whenever we look."""
        totals = self.registry.ledger.totals()
        assert totals.imbalance == 0
        return totals.dropped


def sid(name: str) -> bytes:
    """The session of that name."""
    return name.ljust(16).encode()


def last_ack(replies: list[m.Message]) -> m.Ack:
    """The newest Ack."""
    return next(reply for reply in reversed(replies) if isinstance(reply, m.Ack))


def test_a_welcome_brings_all_an_actor_needs() -> None:
    """Slot, progress, credit and the run's configuration."""
    fleet = Fleet()
    fleet.open(version=7)
    (welcome, ack) = fleet.hello("a")
    assert isinstance(welcome, m.Welcome)
    assert (welcome.sid, welcome.generation, welcome.slot, welcome.incarnation) == (sid("a"), EPOCH, 0, 0)
    assert (welcome.received, welcome.settled, welcome.credit, welcome.version) == (0, 0, CHUNK, 7)
    assert Config.from_json(welcome.body) == CONFIG
    assert last_ack([ack]).credit == CHUNK


def test_slots_are_the_smallest_free_numbers_and_count_their_lives() -> None:
    """A successor takes the freed slot as its next incarnation."""
    fleet = Fleet()
    fleet.join("a", "b", "c")
    fleet.say("b", m.Bye(sid=sid("b"), produced=0))
    seats = {}
    for name in ("d", "e"):
        welcome = fleet.hello(name)[-1]
        assert isinstance(welcome, m.Welcome)
        seats[name] = (welcome.slot, welcome.incarnation)
    assert seats == {"d": (1, 1), "e": (3, 0)}


def test_coming_back_keeps_slot_incarnation_and_credit() -> None:
    """A new connection of the same session is the same player; the old one is unknown."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open()
    fleet.chunk("a")
    hello = m.Hello(
        sid=sid("a"),
        generation=EPOCH,
        host="host",
        pid=1,
        software="0",
        base=0,
        produced=CHUNK + 3,
        former={},
    )
    welcome = fleet.say("a-again", hello)[-1]
    assert isinstance(welcome, m.Welcome)
    assert (welcome.slot, welcome.incarnation) == (0, 0)
    assert (welcome.received, welcome.settled, welcome.credit) == (CHUNK, 0, 2 * CHUNK)
    assert fleet.say("a", m.Heartbeat(sid=sid("a"), generation=EPOCH, produced=0, stats={})) == [
        m.HelloRequired(generation=EPOCH)
    ]
    assert fleet.registry.events["join"] == 1


def test_strangers_are_asked_to_say_hello() -> None:
    """An unknown connection, and a known one that speaks for another session."""
    fleet = Fleet()
    assert fleet.chunk("a") == [m.HelloRequired(generation=EPOCH)]
    fleet.join("a", "b")
    assert fleet.say("a", m.Heartbeat(sid=sid("b"), generation=EPOCH, produced=0, stats={})) == [
        m.HelloRequired(generation=EPOCH)
    ]
    assert fleet.dropped() == {}


def test_places_go_to_the_least_recently_served() -> None:
    """With more sessions than places everyone plays in turn."""
    fleet = Fleet()
    fleet.join("a", "b", "c", "d", "e")
    turns, offsets = [], dict.fromkeys("abcde", 0)
    for version in range(5):
        fleet.open(version)
        turns.append("".join(sorted(fleet.granted())))
        for name in fleet.granted():
            fleet.chunk(name, offsets[name], version)
            offsets[name] += CHUNK
        fleet.registry.settle([(sid(name), offset) for name, offset in fleet.arrived()], "trained")
        fleet.chunks.clear()
    assert turns == ["abc", "ade", "bcd", "abe", "cde"]
    assert fleet.dropped() == {}


def test_one_session_fills_several_places() -> None:
    """Alone it gets the next place with each chunk, and no more than there are."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open()
    credit = [last_ack(fleet.chunk("a", offset)).credit for offset in (0, CHUNK, 2 * CHUNK)]
    assert credit == [2 * CHUNK, 3 * CHUNK, 3 * CHUNK]
    assert fleet.arrived() == [("a", 0), ("a", CHUNK), ("a", 2 * CHUNK)]


def test_who_joins_late_shares_in_the_open_batch() -> None:
    """OpenBatch that nobody holds go to whoever comes."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open()
    fleet.join("b", "c", "d")
    assert fleet.granted() == {"a", "b", "c"}


def test_an_overdue_place_is_offered_again_and_its_late_chunk_is_surplus() -> None:
    """Not before two seconds; the first chunk fills the place."""
    fleet = Fleet()
    fleet.join("b", "c", "slow", "a")  # the last one waits
    fleet.open()
    assert fleet.granted() == {"b", "c", "slow"}
    fleet.now += 0.5
    fleet.chunk("b")
    fleet.chunk("c")  # median: half a second, so three medians are less than two seconds
    fleet.wait(1.5)
    assert fleet.granted() == {"slow"}
    fleet.wait(0.25)
    assert fleet.granted() == {"slow", "a"}
    fleet.wait(1.0)
    assert fleet.granted() == {"slow", "a"}  # offered to one, not to everybody
    fleet.chunk("a")
    assert fleet.arrived() == [("b", 0), ("c", 0), ("a", 0)]
    fleet.chunk("slow")
    assert fleet.dropped() == {"surplus": CHUNK}


def test_slow_fleets_have_patience() -> None:
    """Overdue is three times the usual chunk, where that is more than two seconds."""
    fleet = Fleet()
    fleet.join("a", "b", "c", "d")
    fleet.open()
    fleet.wait(2)
    for name in "ab":
        fleet.chunk(name)
    fleet.wait(3.75)
    assert fleet.granted() == {"c"}
    fleet.wait(0.5)
    assert len(fleet.granted()) == 2


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"version": 0}, "stale"),
        ({"version": 2}, "stale"),
        ({"generation": EPOCH - 1}, "old_generation"),
        ({"generation": EPOCH - 1, "version": 0}, "old_generation"),
        ({"steps": CHUNK - 1}, "invalid"),
        ({"version": 1}, None),
    ],
)
def test_each_chunk_out_of_place_has_one_reason(facts: dict[str, int], reason: str | None) -> None:
    """A chunk of an earlier generation is always `generation`; what was dropped is settled at once."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open(version=1)
    ack = last_ack(fleet.chunk("a", **{"version": 1, **facts}))
    steps = facts.get("steps", CHUNK)
    assert fleet.dropped() == ({reason: steps} if reason else {})
    assert (ack.received, ack.settled) == (steps, steps if reason else 0)
    assert len(fleet.chunks) == (reason is None)
    assert fleet.granted() == {"a"}  # the place is still, or again, to be filled


def test_a_damaged_body_is_asked_for_three_times_and_then_dropped() -> None:
    """A transmission fault heals by a resend; a bad sender does not stop the run."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open()
    for _ in range(3):
        assert m.Resend(offset=0) in fleet.chunk("a", crc=1)
        assert fleet.dropped() == {}
    assert last_ack(fleet.chunk("a", crc=1)).settled == CHUNK
    assert fleet.dropped() == {"invalid": CHUNK}
    assert m.Resend(offset=CHUNK) in fleet.chunk("a", CHUNK, crc=1)  # the next chunk has tries of its own
    fleet.chunk("a", CHUNK)
    assert fleet.arrived() == [("a", CHUNK)]


def test_an_unreadable_body_frees_its_place() -> None:
    """The decoder's refusal is recorded, and the batch still fills."""
    fleet = Fleet(config=ONE_PLACE)
    fleet.join("a", "b")
    fleet.open()
    fleet.chunk("a")
    (chunk,) = fleet.chunks
    fleet.registry.reject_chunk(sid("a"), 0, chunk.batch, fleet.now)
    assert fleet.dropped() == {"invalid": CHUNK}
    assert fleet.granted() == {"b"}


def test_gaps_are_asked_for_and_repeats_are_ignored() -> None:
    """In order and once, whatever the network does."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open()
    assert m.Resend(offset=0) in fleet.chunk("a", CHUNK)
    fleet.chunk("a", 0)
    fleet.chunk("a", 0)
    assert fleet.arrived() == [("a", 0)]
    assert fleet.admission.duplicates == 1
    assert fleet.dropped() == {}


def test_a_gap_is_asked_for_from_what_arrived_on() -> None:
    """Steps that wait for their update are here: they need not come again."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open()
    fleet.chunk("a", 0)
    assert m.Resend(offset=CHUNK) in fleet.chunk("a", 2 * CHUNK)
    assert fleet.arrived() == [("a", 0)]


def test_a_chunk_that_ends_beyond_its_credit_is_invalid() -> None:
    """An actor stops where its credit ends; the second chunk of two at once has none."""
    fleet = Fleet(config=ONE_PLACE)
    fleet.join("a")
    fleet.open()
    fleet.chunk("a")
    fleet.chunk("a", CHUNK)
    assert fleet.arrived() == [("a", 0)]
    assert fleet.dropped() == {"invalid": CHUNK}


def test_a_batch_is_filled_by_the_chunks_that_were_granted_for_it() -> None:
    """Not by all of its version: with a lag, one version plays for several batches."""
    fleet = Fleet(config=replace(ONE_PLACE, max_lag=1))
    fleet.join("a", "b")
    fleet.open()
    fleet.chunk("b")
    fleet.chunk("a")
    assert [(chunk.slot, chunk.batch) for chunk in fleet.chunks] == [(1, 1), (0, 0)]
    assert fleet.dropped() == {}


def test_a_skip_is_booked_and_its_credit_given_back() -> None:
    """The place is still filled with a whole chunk."""
    fleet = Fleet(config=ONE_PLACE)
    fleet.join("a")
    fleet.open()
    ack = last_ack(
        fleet.say(
            "a",
            m.Skip(sid=sid("a"), generation=EPOCH, offset=0, steps=3, produced=3, reason="old_generation"),
        )
    )
    assert (ack.settled, ack.credit) == (3, CHUNK + 3)
    fleet.chunk("a", 3)
    assert fleet.arrived() == [("a", 3)]
    assert fleet.dropped() == {"old_generation": 3}


def test_silence_ends_a_session_and_books_what_it_announced() -> None:
    """What arrived is still trained; its slot and its place are free."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open()
    fleet.chunk("a")
    fleet.say(
        "a",
        m.Heartbeat(
            sid=sid("a"), generation=EPOCH, produced=CHUNK + 7, stats={"phase_env": 2.0, "other": 1.0}
        ),
    )
    fleet.wait(LEASE_SECONDS)
    assert len(fleet.registry.sessions) == 1
    fleet.wait(0.25)
    assert len(fleet.registry.sessions) == 0
    assert fleet.dropped() == {"actor_lost": 7}
    assert fleet.registry.ledger.totals().in_flight == CHUNK
    assert fleet.registry.events["lost"] == 1
    assert fleet.registry.sessions.phase_seconds["env"] == 2.0
    fleet.registry.settle([(sid("a"), 0)], "trained")
    assert fleet.registry.ledger.totals().trained == CHUNK


def test_the_fleets_seconds_count_nothing_twice_when_a_session_follows_another() -> None:
    """An actor that was given up goes on counting in its next session: what it said before is a mark."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open()
    fleet.chunk("a")
    fleet.say("a", m.Heartbeat(sid=sid("a"), generation=EPOCH, produced=CHUNK, stats={"phase_env": 500.0}))
    fleet.wait(LEASE_SECONDS + 0.25)
    assert len(fleet.registry.sessions) == 0
    fleet.hello("b")
    fleet.say("b", m.Heartbeat(sid=sid("b"), generation=EPOCH, produced=0, stats={"phase_env": 520.0}))
    assert fleet.registry.sessions.phase_seconds["env"] == 500.0
    fleet.say("b", m.Heartbeat(sid=sid("b"), generation=EPOCH, produced=0, stats={"phase_env": 523.0}))
    assert fleet.registry.sessions.phase_seconds["env"] == 503.0


def test_the_fleets_seconds_never_go_back_and_have_no_names_but_the_known() -> None:
    """Whatever an actor says: labels are a closed set, and a counter that falls makes rates explode."""
    fleet = Fleet()
    fleet.join("a")
    for seconds in (4.0, 1.0, 2.0):
        fleet.say(
            "a",
            m.Heartbeat(
                sid=sid("a"),
                generation=EPOCH,
                produced=0,
                stats={"phase_env": seconds, "phase_x": 9.0, "steps": 1.0},
            ),
        )
    assert fleet.registry.sessions.phase_seconds == dict.fromkeys(get_args(m.Phase), 0.0) | {"env": 5.0}


def test_a_seat_counts_the_steps_that_arrive_in_it_once() -> None:
    """A resent chunk adds nothing; a successor begins at 0."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open()
    fleet.chunk("a")
    fleet.chunk("a")
    assert [flow.steps_received for flow in fleet.registry.flows.values()] == [CHUNK]
    fleet.wait(LEASE_SECONDS + 0.25)
    fleet.join("b")
    assert [flow.steps_received for flow in fleet.registry.flows.values()] == [0]


def test_a_newcomer_has_time_to_build_its_environments() -> None:
    """It cannot speak while it does, whatever it said before."""
    fleet = Fleet()
    fleet.join("a")
    fleet.wait(119)
    assert len(fleet.registry.sessions) == 1
    fleet.wait(2)
    assert len(fleet.registry.sessions) == 0


def test_everybody_has_time_to_reset_the_lanes_after_random_play() -> None:
    """Until the first chunk under a bundle; from then on silence is silence."""
    fleet = Fleet(config=replace(CONFIG, rnd=RNDConfig(warmup_steps=3 * CHUNK)))
    fleet.join("a")
    fleet.open(version=-1)
    fleet.chunk("a", version=-1)
    fleet.open(version=0)
    fleet.say("a", m.Heartbeat(sid=sid("a"), generation=EPOCH, produced=CHUNK, stats={}))
    fleet.wait(119)
    assert len(fleet.registry.sessions) == 1
    fleet.chunk("a", CHUNK)
    fleet.wait(LEASE_SECONDS + 1)
    assert len(fleet.registry.sessions) == 0


def test_a_pause_of_our_own_is_nobodys_fault() -> None:
    """After the learner stood still, every lease is longer by that time."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open()
    fleet.chunk("a")
    fleet.wait(1)
    fleet.now += 60.0
    fleet.registry.tick(fleet.now)
    fleet.wait(LEASE_SECONDS - 1.25)
    assert len(fleet.registry.sessions) == 1
    fleet.wait(0.75)
    assert len(fleet.registry.sessions) == 0


def test_the_dead_begin_anew() -> None:
    """A session that was given up, or that this generation welcomed and forgot, is told so."""
    fleet = Fleet()
    fleet.join("a")
    fleet.wait(121)
    assert fleet.chunk("a") == [m.HelloRequired(generation=EPOCH)]
    for facts in ({"generation": EPOCH}, {"generation": -1}, {"generation": EPOCH - 1}):
        (reply,) = fleet.hello("a", **facts)
        assert isinstance(reply, m.Reject)
        assert (reply.code, reply.sid, reply.produced) == ("lost", sid("a"), 0)
    (reply,) = fleet.hello("never-seen", generation=EPOCH)
    assert isinstance(reply, m.Reject)
    assert fleet.dropped() == {}


def test_who_was_given_up_is_told_where_its_books_end() -> None:
    """What it stepped beyond that goes into the books of its next session."""
    fleet = Fleet()
    fleet.join("a")
    fleet.say("a", m.Heartbeat(sid=sid("a"), generation=EPOCH, produced=4, stats={}))
    fleet.wait(121)
    (reply,) = fleet.hello("a", generation=EPOCH, produced=9)
    assert isinstance(reply, m.Reject)
    assert reply.produced == 4
    assert fleet.dropped() == {"actor_lost": 4}


def test_a_local_actor_is_known_to_be_dead_at_once() -> None:
    """Its parent read how far it got; a second report changes nothing."""
    fleet = Fleet()
    fleet.join("a")
    fleet.registry.local_actor_exited(sid("a"), 17)
    fleet.registry.local_actor_exited(sid("a"), 23)
    assert len(fleet.registry.sessions) == 0
    assert fleet.dropped() == {"actor_lost": 17}


def test_goodbye_is_granted_once_everything_is_here() -> None:
    """Missing steps are asked for first; pending ones may be trained later."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open()
    assert fleet.say("a", m.Bye(sid=sid("a"), produced=CHUNK)) == [m.Resend(offset=0)]
    fleet.chunk("a")
    assert fleet.say("a", m.Bye(sid=sid("a"), produced=CHUNK)) == [m.ByeAck()]
    assert fleet.dropped() == {}
    assert fleet.registry.events["leave"] == 1
    assert len(fleet.registry.sessions) == 0


def test_a_goodbye_with_missing_steps_asks_for_those_alone() -> None:
    """What arrived waits for its update and need not come again."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open()
    fleet.chunk("a")
    bye = m.Bye(sid=sid("a"), produced=2 * CHUNK)
    assert [x for x in fleet.say("a", bye) if not isinstance(x, m.Ack)] == [m.Resend(offset=CHUNK)]


def test_a_new_version_extends_no_lease() -> None:
    """Only the end of random play does: then every actor resets its lanes."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open()
    fleet.chunk("a")
    fleet.open(version=1)
    fleet.wait(LEASE_SECONDS + 0.25)
    assert len(fleet.registry.sessions) == 0


def restarted(fleet: Fleet, local: set[bytes]) -> Fleet:
    """The next generation, from a snapshot of this one."""
    successor = Fleet(EPOCH + 1)
    successor.registry.restore(fleet.registry.to_json(local), successor.now)
    return successor


def test_an_actor_outlives_its_learner() -> None:
    """It keeps its slot, begins a new incarnation, and sends again what was not settled."""
    fleet = Fleet()
    fleet.join("a", "b")
    fleet.open()
    fleet.chunk("b")
    fleet.registry.settle([(sid("b"), 0)], "trained")
    fleet.chunk("b", CHUNK)  # pending: its data dies with the learner
    after = restarted(fleet, set())
    after.open(version=1)
    assert after.granted() == set()  # nobody has been heard of yet
    welcome = after.hello("b", generation=EPOCH, base=CHUNK, produced=2 * CHUNK)[0]
    assert isinstance(welcome, m.Welcome)
    assert (welcome.slot, welcome.incarnation, welcome.received, welcome.settled) == (1, 1, CHUNK, CHUNK)
    after.chunk("b", CHUNK, generation=EPOCH)
    assert after.dropped() == {"old_generation": CHUNK}
    after.wait(29)
    assert {session.sid for session in after.registry.sessions} == {sid("a"), sid("b")}
    after.wait(2)
    assert {session.sid for session in after.registry.sessions} == {sid("b")}  # 30 seconds to come back


def test_what_a_rolled_back_epoch_settled_is_booked() -> None:
    """The actor freed it, so it will never come; an unknown session of an earlier generation is taken in."""
    fleet = Fleet()
    fleet.join("a")
    after = restarted(fleet, set())
    after.hello("a", generation=EPOCH, base=3 * CHUNK, produced=4 * CHUNK)
    after.hello("b", generation=EPOCH, base=CHUNK, produced=CHUNK)
    assert after.dropped() == {"learner_rollback": 4 * CHUNK}
    assert after.registry.ledger.totals().in_flight == CHUNK


def test_local_actors_of_an_earlier_epoch_are_buried() -> None:
    """They ended with their learner: nobody waits for them, and their steps are recorded."""
    fleet = Fleet()
    fleet.join("a", "b")
    fleet.say("a", m.Heartbeat(sid=sid("a"), generation=EPOCH, produced=7, stats={}))
    after = restarted(fleet, {sid("a")})
    assert after.dropped() == {"actor_lost": 7}
    assert [session.sid for session in after.registry.sessions] == [sid("b")]
    welcome = after.hello("c")[-1]
    assert isinstance(welcome, m.Welcome)
    assert (welcome.slot, welcome.incarnation) == (0, 1)


@pytest.mark.parametrize(("finished", "reason"), [(True, "run_finished"), (False, "learner_shutdown")])
def test_a_drained_run_closes_every_book(finished: bool, reason: str) -> None:
    """Who leaves, leaves cleanly; the rest is recorded under the run's reason; nothing is in flight.

    A chunk that comes after the end is recorded like what never came.
    """
    fleet = Fleet()
    fleet.join("a", "b", "c")
    fleet.open()
    fleet.chunk("a")
    fleet.chunk("b")
    fleet.say("b", m.Heartbeat(sid=sid("b"), generation=EPOCH, produced=CHUNK + 3, stats={}))
    fleet.replies += fleet.registry.drain(finished)
    assert fleet.received("c")[-1] == m.Drain(finished=finished)
    assert fleet.say("c", m.Bye(sid=sid("c"), produced=0)) == [m.ByeAck()]
    assert fleet.hello("late") == [m.Drain(finished=finished)]
    fleet.chunk("a", CHUNK)  # under way when the end came
    fleet.registry.close_remaining()
    totals = fleet.registry.ledger.totals()
    assert (totals.imbalance, totals.in_flight, totals.produced) == (0, 0, 3 * CHUNK + 3)
    assert totals.dropped == {reason: 3 * CHUNK + 3}
    assert len(fleet.registry.sessions) == 0


def test_a_drained_learner_grants_nothing() -> None:
    """The place of a session that leaves is offered to no other."""
    fleet = Fleet(config=ONE_PLACE)
    fleet.join("a", "b")
    fleet.open()
    assert fleet.granted() == {"a"}
    fleet.replies += fleet.registry.drain(finished=False)
    fleet.say("a", m.Bye(sid=sid("a"), produced=0))
    fleet.wait(1)
    assert fleet.granted() == set()


def test_an_arrival_names_the_batch_its_credit_was_for() -> None:
    """With a lag of 1 the fourth chunk of a fleet is the next batch's, of the same version."""
    fleet = Fleet(config=OVERLAPPED)
    fleet.join("a", "b")
    fleet.open()
    for offset in (0, CHUNK, 2 * CHUNK):
        fleet.chunk("a", offset)
        fleet.chunk("b", offset)
    assert [chunk.batch for chunk in fleet.chunks] == [0, 0, 0, 1, 1, 1]
    assert {chunk.message.version for chunk in fleet.chunks} == {0}
    assert fleet.granted() == set()
    assert fleet.dropped() == {}


def test_a_chunk_of_the_last_version_is_admitted_where_a_lag_is_allowed() -> None:
    for config, reason in ((CONFIG, "stale"), (OVERLAPPED, None)):
        fleet = Fleet(config=config)
        fleet.join("a")
        fleet.open(version=1)
        fleet.chunk("a", version=0)
        assert fleet.dropped() == ({reason: CHUNK} if reason else {})
        assert [chunk.batch for chunk in fleet.chunks] == ([] if reason else [1])


def test_a_batch_that_could_not_be_used_is_played_again() -> None:
    """The same sessions get credit for as many places, of the same version."""
    fleet = Fleet()
    fleet.join("a", "b", "c")
    fleet.open()
    for name in "abc":
        fleet.chunk(name)
    assert fleet.granted() == set()
    fleet.registry.settle([(sid(name), 0) for name in "abc"], "update_failed")
    fleet.registry.reopen(fleet.now)
    assert fleet.granted() == {"a", "b", "c"}
    for name in "abc":
        fleet.chunk(name, CHUNK)
    assert [chunk.batch for chunk in fleet.chunks] == [0] * 6
    assert fleet.dropped() == {"update_failed": 3 * CHUNK}
