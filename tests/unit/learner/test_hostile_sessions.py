"""Sessions that lie: well-formed messages with false contents change no book and stop nobody."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from common import messages as m
from learner import claims
from learner.leases import LEASE_SECONDS
from tests.unit.learner.test_admission import CHUNK, EPOCH, ONE_PLACE, Fleet, sid

HUGE = (1 << 62) - 1


def offences(fleet: Fleet) -> list[str]:
    """What was said against whom since the last look."""
    found = list(fleet.admission.offences)
    fleet.admission.offences.clear()
    return found


LIES: list[tuple[str, m.Message]] = [
    ("produced beyond credit", m.Heartbeat(sid=sid("a"), epoch=EPOCH, produced=2 * CHUNK + 1, stats={})),
    ("produced without end", m.Heartbeat(sid=sid("a"), epoch=EPOCH, produced=HUGE, stats={})),
    ("a goodbye of more than was played", m.Bye(sid=sid("a"), produced=HUGE)),
    (
        "a chunk of more than was played",
        m.ChunkMessage(
            sid=sid("a"),
            epoch=EPOCH,
            version=0,
            offset=0,
            steps=CHUNK,
            produced=HUGE,
            truncations=[],
            observation_bytes=0,
            crc=b"",
        ),
    ),
    (
        "a chunk without end",
        m.ChunkMessage(
            sid=sid("a"),
            epoch=EPOCH,
            version=0,
            offset=0,
            steps=HUGE,
            produced=0,
            truncations=[],
            observation_bytes=0,
            crc=b"",
        ),
    ),
    (
        "a chunk without steps",
        m.ChunkMessage(
            sid=sid("a"),
            epoch=EPOCH,
            version=0,
            offset=0,
            steps=0,
            produced=0,
            truncations=[],
            observation_bytes=0,
            crc=b"",
        ),
    ),
    (
        "a chunk that goes back",
        m.ChunkMessage(
            sid=sid("a"),
            epoch=EPOCH,
            version=0,
            offset=0,
            steps=-1,
            produced=0,
            truncations=[],
            observation_bytes=0,
            crc=b"",
        ),
    ),
    (
        "a chunk from before the beginning",
        m.ChunkMessage(
            sid=sid("a"),
            epoch=EPOCH,
            version=0,
            offset=-1,
            steps=CHUNK,
            produced=0,
            truncations=[],
            observation_bytes=0,
            crc=b"",
        ),
    ),
    (
        "a skip without end",
        m.Skip(sid=sid("a"), epoch=EPOCH, offset=0, steps=HUGE, produced=HUGE, reason="epoch"),
    ),
    ("a skip far away", m.Skip(sid=sid("a"), epoch=EPOCH, offset=HUGE, steps=1, produced=0, reason="epoch")),
    ("a skip of nothing", m.Skip(sid=sid("a"), epoch=EPOCH, offset=0, steps=0, produced=0, reason="epoch")),
    (
        "a second session on its connection",
        m.Hello(sid=sid("b"), epoch=-1, host="host", pid=1, software="0", base=0, produced=0),
    ),
    (
        "steps freed that nobody settled",
        m.Hello(sid=sid("a"), epoch=EPOCH, host="host", pid=1, software="0", base=CHUNK, produced=CHUNK),
    ),
    (
        "more held than produced",
        m.Hello(sid=sid("a"), epoch=EPOCH, host="host", pid=1, software="0", base=5, produced=4),
    ),
    (
        "a new session with more than a chunk",
        m.Hello(sid=sid("a"), epoch=-1, host="host", pid=1, software="0", base=0, produced=CHUNK + 1),
    ),
    (
        "a jump after its return",
        m.Hello(sid=sid("a"), epoch=EPOCH, host="host", pid=1, software="0", base=0, produced=HUGE),
    ),
    (
        "what a learner says",
        m.Welcome(
            sid=sid("a"),
            epoch=EPOCH,
            slot=0,
            incarnation=0,
            received=0,
            settled=0,
            credit=HUGE,
            version=0,
            target=bytes(32),
            heartbeat_ms=0,
            lease_ms=0,
            body=b"{}",
        ),
    ),
]


@pytest.mark.parametrize("lie", [case[1] for case in LIES], ids=[case[0] for case in LIES])
def test_a_false_claim_is_an_offence_and_changes_no_book(lie: m.Message) -> None:
    """Credit is 10 steps here; nobody plays further than that, or than a chunk more after a return."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open()
    before = fleet.admission.to_json(set())
    fleet.say("a", lie)
    assert len(offences(fleet)) == 1
    assert fleet.admission.to_json(set()) == before


def test_what_honest_actors_say_is_no_offence() -> None:
    """Joining, playing, returning in the middle of a chunk, a damaged chunk, a new learner life."""
    fleet = Fleet()
    fleet.join("a", "b")
    fleet.open()
    fleet.say("a", m.Heartbeat(sid=sid("a"), epoch=EPOCH, produced=3, stats={}))
    fleet.hello("a", epoch=EPOCH, produced=CHUNK - 1)
    for _ in range(3):
        fleet.chunk("a", crc=1)
    fleet.chunk("a")
    fleet.chunk("a")
    fleet.chunk("b")
    successor = Fleet(EPOCH + 1)
    successor.admission.restore(fleet.admission.to_json(set()), successor.now)
    successor.hello("b", epoch=EPOCH, base=CHUNK, produced=2 * CHUNK + 4)
    successor.hello(
        "b", epoch=EPOCH, base=CHUNK, produced=3 * CHUNK
    )  # its Welcome was lost, and it played on
    successor.say(
        "b",
        m.Skip(sid=sid("b"), epoch=EPOCH, offset=CHUNK, steps=2 * CHUNK, produced=3 * CHUNK, reason="epoch"),
    )
    assert offences(fleet) == offences(successor) == []


def test_a_chunk_that_nobody_called_for_fills_no_place() -> None:
    """One session that sends ahead of its credit would take every place of a batch."""
    fleet = Fleet(config=ONE_PLACE)
    fleet.join("a", "b")
    fleet.open()
    assert fleet.granted() == {"a"}
    fleet.chunk("b")
    assert fleet.arrived() == []
    assert fleet.dropped() == {"invalid": CHUNK}
    assert len(offences(fleet)) == 1


def test_bodies_that_stay_damaged_or_cannot_be_read_are_offences() -> None:
    """The fourth damaged one of a chunk; one whose arrays lie."""
    fleet = Fleet()
    fleet.join("a")
    fleet.open()
    for _ in range(4):
        fleet.chunk("a", crc=1)
    assert len(offences(fleet)) == 1
    fleet.chunk("a", CHUNK)
    fleet.admission.refuse(sid("a"), CHUNK, fleet.admission.arrivals[-1].batch, fleet.now)
    assert offences(fleet) == []  # its message had gone on to be decoded: it counts with the next one
    fleet.say("a", m.Heartbeat(sid=sid("a"), epoch=EPOCH, produced=2 * CHUNK, stats={}))
    assert len(offences(fleet)) == 1


def test_a_session_of_another_run_begins_anew() -> None:
    """A learner that never lived so often does not know it, and books nothing of it."""
    fleet = Fleet()
    (reply,) = fleet.hello("a", epoch=EPOCH + 1, base=HUGE, produced=HUGE)
    assert isinstance(reply, m.Reject) and reply.code == "lost"
    assert fleet.admission.ledger.totals().produced == 0


def test_only_known_figures_of_a_heartbeat_are_kept() -> None:
    """Others would become metric labels, one for each name that a liar invents."""
    told = {"phase_env": 1.5, "phase_bonus": -1.0, "phase_encode": 1e300, "phase_x": 1.0, "steps": 7.0}
    assert claims.figures(told) == {"phase_env": 1.5}


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
        fleet.admission.on(peer.encode(), arbitrary(rng, sid(name)), fleet.now)
        told += len(offences(fleet))
        fleet.admission.replies.clear()
        if rng.random() < 0.2:
            fleet.now += rng.random()
            fleet.admission.tick(fleet.now)
            honest = fleet.admission.seats.get(sid("honest"))
            assert honest is not None
            if honest.credit >= offset + CHUNK:
                fleet.chunk("honest", offset, version)
                offset += CHUNK
            else:
                fleet.say("honest", m.Heartbeat(sid=sid("honest"), epoch=EPOCH, produced=offset, stats={}))
        for arrival in fleet.admission.arrivals:
            arrived += arrival.message.sid == sid("honest")
            fleet.admission.settle([(arrival.message.sid, arrival.message.offset)], "trained")
            version += 1
            fleet.admission.open(version, fleet.now)
        fleet.admission.arrivals.clear()
        if number % 10 == 0:
            assert fleet.admission.ledger.totals().imbalance == 0
    assert told > 200
    assert arrived == offset // CHUNK > 500  # each chunk of the honest one filled its place
    assert len(fleet.admission.seats) <= 4
    assert fleet.admission.ledger.totals().produced < 5_000 * 3 * CHUNK
    assert fleet.now - 100.0 > LEASE_SECONDS


def arbitrary(rng: random.Random, name: bytes) -> m.Message:
    """A well-formed message that says anything."""

    def number() -> int:
        return rng.choice([-1, 0, 1, 3, CHUNK, CHUNK, 2 * CHUNK, rng.randrange(100), 1 << 40, HUGE])

    epoch = rng.choice([EPOCH, EPOCH, -1, EPOCH + 1])
    match rng.randrange(6):
        case 0:
            return m.Hello(
                sid=name,
                epoch=epoch,
                host="host",
                pid=1,
                software="0",
                base=rng.choice([0, number()]),
                produced=rng.choice([0, number()]),
            )
        case 1 | 2:
            return m.ChunkMessage(
                sid=name,
                epoch=epoch,
                version=number(),
                offset=number(),
                steps=rng.choice([CHUNK, number()]),
                produced=number(),
                truncations=[],
                observation_bytes=rng.choice([0, 1]),
                crc=b"",
            )
        case 3:
            return m.Skip(
                sid=name, epoch=epoch, offset=number(), steps=number(), produced=number(), reason="epoch"
            )
        case 4:
            return m.Heartbeat(
                sid=name, epoch=epoch, produced=number(), stats={"phase_env": 1.0, str(number()): 1.0}
            )
        case _:
            return rng.choice(
                [
                    m.Bye(sid=name, produced=number()),
                    m.Resend(offset=number()),
                    m.Ack(epoch=epoch, received=1, settled=1, credit=HUGE, version=1),
                ]
            )
