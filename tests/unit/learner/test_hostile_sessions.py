"""Sessions that lie: well-formed messages with false contents change no book and stop nobody."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace

import pytest

from common.protocol import messages as m
from learner.server import validation
from learner.server.sessions import LEASE_SECONDS
from tests.unit.learner.test_admission import CHUNK, EPOCH, ONE_PLACE, Fleet, sid

HUGE = (1 << 62) - 1


def violations(fleet: Fleet) -> list[str]:
    """Return the violations since the last call."""
    found = list(fleet.violations)
    fleet.violations.clear()
    return found


def chunk(**facts: int) -> m.ChunkMessage:
    """The next chunk of session a, with some facts wrong."""
    fields = {"generation": EPOCH, "version": 0, "offset": 0, "steps": CHUNK, "produced": CHUNK} | facts
    return m.ChunkMessage(
        sid=sid("a"), fresh=True, truncations=0, observation_bytes=0, crc=zlib.crc32(b""), body=b"", **fields
    )


def skip(offset: int, steps: int, produced: int) -> m.Skip:
    """A skip of session a."""
    return m.Skip(
        sid=sid("a"), generation=EPOCH, offset=offset, steps=steps, produced=produced, reason="old_generation"
    )


def hello(
    name: str = "a", generation: int = EPOCH, base: int = 0, produced: int = 0, **former: int
) -> m.Hello:
    """A Hello of a session, with its former sessions by name."""
    return m.Hello(
        sid=sid(name),
        generation=generation,
        host="host",
        pid=1,
        software="0",
        base=base,
        produced=produced,
        former={sid(other): steps for other, steps in former.items()},
    )


WELCOME = m.Welcome(
    sid=sid("a"),
    generation=EPOCH,
    slot=0,
    incarnation=0,
    received=0,
    settled=0,
    credit=HUGE,
    version=0,
    target=bytes(32),
    heartbeat_ms=0,
    lease_ms=0,
    software="0",
    body=b"{}",
)
MOST = f"expected at most {2 * CHUNK} steps"  # credit is one chunk
LIES: list[tuple[str, m.Message, str]] = [
    (
        "produced beyond credit",
        m.Heartbeat(sid=sid("a"), generation=EPOCH, produced=2 * CHUNK + 1, stats={}),
        MOST,
    ),
    ("produced without end", m.Heartbeat(sid=sid("a"), generation=EPOCH, produced=HUGE, stats={}), MOST),
    ("a goodbye of more than was played", m.Bye(sid=sid("a"), produced=HUGE), MOST),
    ("a chunk of more than was played", chunk(produced=HUGE), MOST),
    ("a chunk without end", chunk(steps=HUGE), MOST),
    ("a chunk without steps", chunk(steps=0), "expected at least 1 step from offset 0 on, got 0 from 0"),
    ("a chunk that goes back", chunk(steps=-1), "expected at least 1 step from offset 0 on, got -1 from 0"),
    (
        "a chunk from before the beginning",
        chunk(offset=-1),
        "expected at least 1 step from offset 0 on, got 10 from -1",
    ),
    ("a skip without end", skip(0, HUGE, HUGE), MOST),
    ("a skip far away", skip(HUGE, 1, 0), MOST),
    ("a skip of nothing", skip(0, 0, 0), "expected at least 1 step from offset 0 on, got 0 from 0"),
    ("a second session on its connection", hello("b", -1), "expected one session on a connection"),
    (
        "steps freed that nobody settled",
        hello(base=CHUNK, produced=CHUNK),
        "expected base of at most 0",
    ),
    ("more held than produced", hello(base=5, produced=4), "expected base in [0, 4]"),
    ("a new session with more than a chunk", hello("a", -1, produced=CHUNK + 1), "expected a new session"),
    ("a jump after its return", hello(produced=2 * CHUNK + 1), MOST),
    ("more steps than any session makes", hello(produced=HUGE), MOST),
    ("itself as a former session", hello("a", a=1), "former sessions without the present one"),
    ("too many former sessions", hello("a", **{f"z{k}": 1 for k in range(17)}), "at most 16 former sessions"),
    ("what a learner says", WELCOME, "expected a message of an actor, got Welcome"),
]


@pytest.mark.parametrize(("lie", "reason"), [case[1:] for case in LIES], ids=[case[0] for case in LIES])
def test_a_false_claim_is_an_offence_and_changes_no_account(lie: m.Message, reason: str) -> None:
    """Credit is 10 steps here; nobody plays further than that, or than a chunk more after a return."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open()
    before = fleet.registry.to_json(set())
    fleet.say("a", lie)
    (said,) = violations(fleet)
    assert reason in said
    assert fleet.registry.to_json(set()) == before


def test_a_session_with_more_steps_than_the_run_ends_without_an_offence() -> None:
    """A learner that restarts again and again from one checkpoint lets an honest actor exceed it."""
    fleet = Fleet()
    fleet.join("a")
    successor = Fleet(EPOCH + 1)
    successor.registry.restore(fleet.registry.to_json(set()), successor.now)
    (reply,) = successor.say("a", hello(produced=HUGE))
    assert isinstance(reply, m.Reject)
    assert (reply.code, reply.sid, reply.produced) == ("lost", sid("a"), HUGE)
    assert violations(successor) == []
    assert successor.registry.ledger.totals().produced == 0


def test_a_connection_has_one_session_at_a_time_also_if_it_names_former_ones() -> None:
    fleet = Fleet()
    fleet.open()
    fleet.say("a", hello("s0", -1))
    for number in range(1, 6):
        fleet.say("a", hello(f"s{number}", -1, **{f"s{number - 1}": 1}))
    assert violations(fleet) == []
    assert [session.sid for session in fleet.registry.sessions] == [sid("s5")]


def test_former_sessions_that_no_run_has_are_not_counted() -> None:
    """An actor of another run may name them; it joins nevertheless."""
    fleet = Fleet()
    (welcome,) = fleet.say("a", hello("a", -1, z=HUGE, y=-1, x=0))
    assert isinstance(welcome, m.Welcome)
    assert fleet.registry.ledger.totals().produced == 0


@pytest.mark.parametrize("claim", [hello("a"), hello("b", -1, a=CHUNK)], ids=["its own", "a former one"])
def test_a_session_of_another_key_is_refused_and_nothing_of_the_claim_is_kept(claim: m.Hello) -> None:
    """Neither the name of the session nor of the key that claimed it; its owner plays as before."""
    fleet = Fleet()
    fleet.deliver("a", hello("a", -1), "owner")
    fleet.open()
    before = fleet.registry.to_json(set())
    fleet.deliver("thief", claim, "thief")
    assert violations(fleet) == ["expected sessions of the key of the connection, got one of another key"]
    assert fleet.registry.to_json(set()) == before
    assert fleet.received("thief") == []
    fleet.chunk("a")
    assert fleet.arrived() == [("a", 0)]


def test_what_honest_actors_say_is_no_offence() -> None:
    """Joining, playing, returning in the middle of a chunk, a damaged chunk, a new learner life."""
    fleet = Fleet()
    fleet.join("a", "b")
    fleet.open()
    fleet.say("a", m.Heartbeat(sid=sid("a"), generation=EPOCH, produced=3, stats={}))
    fleet.hello("a", generation=EPOCH, produced=CHUNK - 1)
    for _ in range(3):
        fleet.chunk("a", crc=1)
    fleet.chunk("a")
    fleet.chunk("a")
    fleet.chunk("b")
    successor = Fleet(EPOCH + 1)
    successor.registry.restore(fleet.registry.to_json(set()), successor.now)
    successor.hello("b", generation=EPOCH, base=CHUNK, produced=2 * CHUNK + 4)
    successor.hello(
        "b", generation=EPOCH, base=CHUNK, produced=3 * CHUNK
    )  # its Welcome was lost, and it played on
    successor.say(
        "b",
        m.Skip(
            sid=sid("b"),
            generation=EPOCH,
            offset=CHUNK,
            steps=2 * CHUNK,
            produced=3 * CHUNK,
            reason="old_generation",
        ),
    )
    assert violations(fleet) == violations(successor) == []


def test_a_chunk_that_nobody_called_for_fills_no_place() -> None:
    """One session that sends ahead of its credit would take every place of a batch."""
    fleet = Fleet(config=ONE_PLACE)
    fleet.join("a", "b")
    fleet.open()
    assert fleet.granted() == {"a"}
    fleet.chunk("b")
    assert fleet.arrived() == []
    assert fleet.dropped() == {"invalid": CHUNK}
    assert len(violations(fleet)) == 1


def test_bodies_that_stay_damaged_or_cannot_be_read_are_violations() -> None:
    """The fourth damaged one of a chunk; one whose arrays lie."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open()
    for _ in range(4):
        fleet.chunk("a", crc=1)
    assert len(violations(fleet)) == 1
    fleet.chunk("a", CHUNK)
    fleet.registry.reject_chunk(sid("a"), CHUNK, fleet.chunks[-1].batch, fleet.now)
    assert violations(fleet) == []  # its message had gone on to be decoded: it counts with the next one
    fleet.say("a", m.Heartbeat(sid=sid("a"), generation=EPOCH, produced=2 * CHUNK, stats={}))
    assert len(violations(fleet)) == 1


def test_a_session_of_another_run_begins_anew() -> None:
    """A learner that never lived so often does not know it, and books nothing of it."""
    fleet = Fleet()
    (reply,) = fleet.hello("a", generation=EPOCH + 1, base=HUGE, produced=HUGE)
    assert isinstance(reply, m.Reject) and reply.code == "lost"
    assert fleet.registry.ledger.totals().produced == 0


def test_only_known_figures_of_a_heartbeat_are_kept() -> None:
    """Others would become metric labels, one for each name that a liar invents."""
    told = {"phase_env": 1.5, "phase_bonus": -1.0, "phase_encode": 1e300, "phase_x": 1.0, "steps": 7.0}
    assert validation.valid_phase_times(told) == {"phase_env": 1.5}


@pytest.mark.parametrize("seed", range(4))
def test_no_sequence_of_lies_breaks_the_books_or_stops_the_honest(seed: int) -> None:
    """5,000 well-formed messages with arbitrary contents from three peers, beside one honest session."""
    rng = random.Random(seed)
    fleet = Fleet(config=replace(ONE_PLACE, max_lag=rng.randrange(3)))
    fleet.open(0)
    fleet.join("honest")
    offset, version, arrived, told = 0, 0, 0, 0
    for number in range(5_000):
        peer = rng.choice("pqr")
        name = f"{peer if rng.random() < 0.9 else 'x'}{number // 100}"  # sessions soon die
        fleet.deliver(peer, arbitrary(rng, sid(name)))
        told += len(violations(fleet))
        fleet.replies.clear()
        if rng.random() < 0.2:
            fleet.now += rng.random()
            fleet.registry.tick(fleet.now)
            honest = fleet.registry.sessions.get(sid("honest"))
            assert honest is not None
            if fleet.registry.flows[sid("honest")].credit >= offset + CHUNK:
                fleet.chunk("honest", offset, version)
                offset += CHUNK
            else:
                fleet.say(
                    "honest", m.Heartbeat(sid=sid("honest"), generation=EPOCH, produced=offset, stats={})
                )
        for chunk in fleet.chunks:
            arrived += chunk.message.sid == sid("honest")
            fleet.registry.settle([(chunk.message.sid, chunk.message.offset)], "trained")
            version += 1
            fleet.registry.open(version, fleet.now)
        fleet.chunks.clear()
        if number % 10 == 0:
            assert fleet.registry.ledger.totals().imbalance == 0
    assert told > 200
    assert arrived == offset // CHUNK > 500  # each chunk of the honest one filled its place
    assert len(fleet.registry.sessions) <= 4
    assert fleet.registry.ledger.totals().produced < 5_000 * 3 * CHUNK
    assert fleet.now - 100.0 > LEASE_SECONDS


def arbitrary(rng: random.Random, name: bytes) -> m.Message:
    """A well-formed message that says anything."""

    def number() -> int:
        return rng.choice([-1, 0, 1, 3, CHUNK, CHUNK, 2 * CHUNK, rng.randrange(100), 1 << 40, HUGE])

    generation = rng.choice([EPOCH, EPOCH, -1, EPOCH + 1])
    match rng.randrange(6):
        case 0:
            return m.Hello(
                sid=name,
                generation=generation,
                host="host",
                pid=1,
                software="0",
                base=rng.choice([0, number()]),
                produced=rng.choice([0, number()]),
                former={sid(f"former{rng.randrange(50)}"): number() for _ in range(rng.randrange(3))},
            )
        case 1 | 2:
            return m.ChunkMessage(
                sid=name,
                generation=generation,
                version=number(),
                offset=number(),
                steps=rng.choice([CHUNK, number()]),
                produced=number(),
                fresh=rng.random() < 0.5,
                truncations=0,
                observation_bytes=0,
                crc=rng.choice([0, 1]),
                body=b"",
            )
        case 3:
            return m.Skip(
                sid=name,
                generation=generation,
                offset=number(),
                steps=number(),
                produced=number(),
                reason="old_generation",
            )
        case 4:
            return m.Heartbeat(
                sid=name,
                generation=generation,
                produced=number(),
                stats={"phase_env": 1.0, str(number()): 1.0},
            )
        case _:
            others: list[m.Message] = [
                m.Bye(sid=name, produced=number()),
                m.Resend(offset=number()),
                m.Ack(generation=generation, received=1, settled=1, credit=HUGE, version=1),
            ]
            return rng.choice(others)
