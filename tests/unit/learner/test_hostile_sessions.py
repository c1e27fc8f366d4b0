"""Well-formed messages with false contents are violations, and they change no account."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.protocol import codec
from common.protocol import messages as m
from learner.server import validation
from tests.support.admission_harness import (
    CHUNK_STEPS,
    GENERATION,
    HUGE,
    AdmissionHarness,
    sid,
)


def heartbeat(produced: int) -> m.Heartbeat:
    """A heartbeat of session a."""
    return m.Heartbeat(sid=sid("a"), generation=GENERATION, produced=produced, stats={})


def chunk(**facts: int) -> m.ChunkMessage:
    """The next chunk of session a, with some facts wrong."""
    right = {
        "generation": GENERATION,
        "version": 0,
        "offset": 0,
        "steps": CHUNK_STEPS,
        "produced": CHUNK_STEPS,
    }
    chunk = m.ChunkMessage(
        sid=sid("a"),
        fresh=True,
        truncations=0,
        observation_bytes=0,
        crc=0,
        body=b"",
        **(right | facts),
    )
    return replace(chunk, crc=codec.checksum(chunk))


def skip(name: str, offset: int, steps: int, produced: int) -> m.Skip:
    """A skip of a session."""
    return m.Skip(
        sid=sid(name),
        generation=GENERATION,
        offset=offset,
        steps=steps,
        produced=produced,
        reason="old_generation",
    )


def hello(
    name: str = "a", generation: int = GENERATION, base: int = 0, produced: int = 0, **former: int
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
    generation=GENERATION,
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
TOO_MANY_STEPS = f"expected at most {2 * CHUNK_STEPS} steps"  # credit is one chunk
FALSE_CLAIMS: list[tuple[str, m.Message, str]] = [
    ("steps beyond credit", heartbeat(2 * CHUNK_STEPS + 1), TOO_MANY_STEPS),
    ("steps without limit", heartbeat(HUGE), TOO_MANY_STEPS),
    ("a Bye with steps beyond credit", m.Bye(sid=sid("a"), produced=HUGE), TOO_MANY_STEPS),
    ("a chunk of a session with steps beyond credit", chunk(produced=HUGE), TOO_MANY_STEPS),
    ("a chunk with steps beyond credit", chunk(steps=HUGE), TOO_MANY_STEPS),
    ("a chunk without steps", chunk(steps=0), "expected at least 1 step from offset 0 on, got 0 from 0"),
    (
        "a chunk with a negative number of steps",
        chunk(steps=-1),
        "expected at least 1 step from offset 0 on, got -1 from 0",
    ),
    (
        "a chunk at a negative offset",
        chunk(offset=-1),
        "expected at least 1 step from offset 0 on, got 10 from -1",
    ),
    ("a skip with steps beyond credit", skip("a", 0, HUGE, HUGE), TOO_MANY_STEPS),
    ("a skip at an offset beyond credit", skip("a", HUGE, 1, 0), TOO_MANY_STEPS),
    ("a skip without steps", skip("a", 0, 0, 0), "expected at least 1 step from offset 0 on, got 0 from 0"),
    ("a second session on its connection", hello("b", -1), "expected one session on a connection"),
    (
        "steps freed before they were settled",
        hello(base=CHUNK_STEPS, produced=CHUNK_STEPS),
        "expected base of at most 0",
    ),
    ("more steps held than produced", hello(base=5, produced=4), "expected base in [0, 4]"),
    (
        "a new session with more than a chunk",
        hello("a", -1, produced=CHUNK_STEPS + 1),
        "expected a new session",
    ),
    ("a reconnect with steps beyond credit", hello(produced=2 * CHUNK_STEPS + 1), TOO_MANY_STEPS),
    ("a reconnect with steps without limit", hello(produced=HUGE), TOO_MANY_STEPS),
    ("its own session as a former one", hello("a", a=1), "former sessions without the present one"),
    ("too many former sessions", hello("a", **{f"z{k}": 1 for k in range(17)}), "at most 16 former sessions"),
    ("a message of a learner", WELCOME, "expected a message of an actor, got Welcome"),
]


@pytest.mark.parametrize(
    ("message", "reason"), [case[1:] for case in FALSE_CLAIMS], ids=[case[0] for case in FALSE_CLAIMS]
)
def test_a_false_claim_is_a_violation_and_changes_no_account(message: m.Message, reason: str) -> None:
    """An honest actor plays at most one chunk beyond its credit, which is 10 steps here."""
    harness = AdmissionHarness()
    harness.join("a")
    harness.open_batch()
    before = harness.registry.to_json(set())
    harness.send("a", message)
    (violation,) = harness.take_violations()
    assert reason in violation
    assert harness.registry.to_json(set()) == before


@pytest.mark.parametrize("generation", [-1, GENERATION - 1, GENERATION + 1])
@pytest.mark.parametrize("kind", ["chunk", "skip"])
def test_steps_of_another_generation_end_with_the_chunk_of_the_join(kind: str, generation: int) -> None:
    """No credit of this generation is for them. Otherwise each skip allows further ones without an end."""
    harness = AdmissionHarness()
    held = CHUNK_STEPS // 2
    harness.send_hello("a", produced=held)
    harness.open_batch()
    harness.registry.flows[sid("a")].raise_credit(10 * CHUNK_STEPS)

    def send(offset: int, steps: int, produced: int) -> list[str]:
        message: m.Message = replace(skip("a", offset, steps, produced), generation=generation)
        if kind == "chunk":
            message = chunk(generation=generation, offset=offset, steps=steps, produced=produced)
        harness.send("a", message)
        return harness.take_violations()

    limit = held + CHUNK_STEPS  # an actor completes its chunk while its Hello is answered
    assert send(0, CHUNK_STEPS, CHUNK_STEPS) == []
    before = harness.registry.to_json(set())
    refusal = [f"expected at most {limit} steps, got {limit + 1}"]
    for _ in range(3):
        assert send(CHUNK_STEPS, limit + 1 - CHUNK_STEPS, CHUNK_STEPS) == refusal
        assert send(CHUNK_STEPS, 1, limit + 1) == refusal
    assert harness.registry.to_json(set()) == before
    assert send(CHUNK_STEPS, limit - CHUNK_STEPS, limit) == []
    assert harness.dropped() == {"old_generation": limit}
    assert harness.registry.ledger.totals().produced == limit


def test_skips_of_steps_before_the_join_raise_no_limit() -> None:
    """The grant at the join begins after them, so a session cannot double its steps with each skip."""
    harness = AdmissionHarness()
    harness.join("a")
    after = harness.restarted(set())
    after.open_batch()
    many = 1_000 * CHUNK_STEPS
    after.send_hello("a", generation=GENERATION, produced=many)
    after.send("a", skip("a", 0, many, many))
    assert after.take_violations() == []
    assert after.registry.flows[sid("a")].credit == many + CHUNK_STEPS
    for number in range(1, 20):
        offset = many + 2 * number * CHUNK_STEPS
        after.send("a", replace(skip("a", offset, 1, HUGE), generation=GENERATION + 1))
        assert len(after.take_violations()) == 1
    assert after.registry.ledger.totals().produced == many


def test_a_connection_has_one_session_at_a_time_also_if_it_names_former_ones() -> None:
    harness = AdmissionHarness()
    harness.open_batch()
    harness.send("a", hello("s0", -1))
    for number in range(1, 6):
        harness.send("a", hello(f"s{number}", -1, **{f"s{number - 1}": 1}))
    assert harness.take_violations() == []
    assert [session.sid for session in harness.registry.sessions] == [sid("s5")]


def test_former_sessions_of_another_run_are_not_counted() -> None:
    """The actor that names them joins nevertheless."""
    harness = AdmissionHarness()
    (welcome,) = harness.send("a", hello("a", -1, z=HUGE, y=-1, x=0))
    assert isinstance(welcome, m.Welcome)
    assert harness.registry.ledger.totals().produced == 0


@pytest.mark.parametrize(
    "claim", [hello("a"), hello("b", -1, a=CHUNK_STEPS)], ids=["its own", "a former one"]
)
def test_a_hello_with_a_session_of_another_key_is_refused_and_changes_no_account(claim: m.Hello) -> None:
    """The session continues with the key that owns it."""
    harness = AdmissionHarness()
    harness.deliver("a", hello("a", -1), "owner")
    harness.open_batch()
    before = harness.registry.to_json(set())
    harness.deliver("hostile", claim, "another key")
    assert harness.take_violations() == [
        "expected sessions of the key of the connection, got one of another key"
    ]
    assert harness.registry.to_json(set()) == before
    assert harness.replies_to("hostile") == []
    harness.send_chunk("a")
    assert harness.admitted() == [("a", 0)]


def test_the_messages_of_honest_actors_are_no_violations() -> None:
    """Also a reconnect within a chunk, damaged and repeated chunks, and a restart of the learner."""
    harness = AdmissionHarness()
    harness.join("a", "b")
    harness.open_batch()
    harness.send_heartbeat("a", 3)
    harness.send_hello("a", generation=GENERATION, produced=CHUNK_STEPS - 1)
    for _ in range(3):
        harness.send_chunk("a", crc=1)
    harness.send_chunk("a")
    harness.send_chunk("a")
    harness.send_chunk("b")
    after = harness.restarted(set())
    after.send_hello("b", generation=GENERATION, base=CHUNK_STEPS, produced=2 * CHUNK_STEPS + 4)
    # The Welcome is lost, and the actor plays until it sends another Hello.
    after.send_hello("b", generation=GENERATION, base=CHUNK_STEPS, produced=3 * CHUNK_STEPS)
    after.send("b", skip("b", CHUNK_STEPS, 2 * CHUNK_STEPS, 3 * CHUNK_STEPS))
    assert harness.take_violations() == after.take_violations() == []


def test_a_fourth_damaged_body_and_one_that_cannot_be_decoded_are_violations() -> None:
    harness = AdmissionHarness()
    harness.join("a")
    harness.open_batch()
    for _ in range(4):
        harness.send_chunk("a", crc=1)
    assert len(harness.take_violations()) == 1
    harness.send_chunk("a", CHUNK_STEPS)
    harness.registry.reject_chunk(sid("a"), CHUNK_STEPS, harness.chunks[-1].batch, harness.now)
    assert harness.take_violations() == []  # the decoder finds it later, so it counts with the next message
    harness.send_heartbeat("a", 2 * CHUNK_STEPS)
    assert len(harness.take_violations()) == 1


def test_only_the_phase_times_of_a_heartbeat_are_kept() -> None:
    """Each other name would become a metric label."""
    stats = {"phase_env": 1.5, "phase_bonus": -1.0, "phase_encode": 1e300, "phase_x": 1.0, "steps": 7.0}
    assert validation.valid_phase_times(stats) == {"phase_env": 1.5}
