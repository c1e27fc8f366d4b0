"""Which chunks are admitted, sent again or dropped, and for which reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.protocol import messages as m
from learner.server.sessions import LEASE_SECONDS
from tests.support.admission_harness import (
    CHUNK_STEPS,
    GENERATION,
    HUGE,
    ONE_CHUNK_BATCH,
    AdmissionHarness,
    last_ack,
    sid,
)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"version": 0}, "stale"),
        ({"version": 2}, "stale"),
        ({"generation": GENERATION - 1}, "old_generation"),
        ({"generation": GENERATION - 1, "version": 0}, "old_generation"),
        ({"steps": CHUNK_STEPS - 1}, "invalid"),
        ({"version": 1}, None),
    ],
)
def test_each_chunk_that_is_not_admitted_has_one_reason(facts: dict[str, int], reason: str | None) -> None:
    """A chunk of an earlier generation is always `old_generation`; a dropped chunk is settled at once."""
    harness = AdmissionHarness()
    harness.join("a")
    harness.open_batch(version=1)
    ack = last_ack(harness.send_chunk("a", **{"version": 1, **facts}))
    steps = facts.get("steps", CHUNK_STEPS)
    assert harness.dropped() == ({reason: steps} if reason else {})
    assert (ack.received, ack.settled) == (steps, steps if reason else 0)
    assert len(harness.chunks) == (reason is None)
    assert harness.granted() == {"a"}  # the batch still lacks chunks


def test_a_damaged_body_is_requested_three_times_and_then_dropped() -> None:
    """A resend repairs a transmission error; a sender that cannot repair it does not stop the run."""
    harness = AdmissionHarness()
    harness.join("a")
    harness.open_batch()
    for _ in range(3):
        assert m.Resend(offset=0) in harness.send_chunk("a", crc=1)
        assert harness.dropped() == {}
    replies = harness.send_chunk("a", crc=1)
    assert harness.dropped() == {"invalid": CHUNK_STEPS}
    assert last_ack(replies).settled == CHUNK_STEPS
    assert m.Resend(offset=CHUNK_STEPS) in harness.send_chunk("a", CHUNK_STEPS, crc=1)  # its own three tries
    harness.send_chunk("a", CHUNK_STEPS)
    assert harness.admitted() == [("a", CHUNK_STEPS)]


@pytest.mark.parametrize(
    "field, value",
    [("generation", 3), ("version", 1), ("offset", 2 * CHUNK_STEPS), ("produced", HUGE), ("fresh", False)],
)
def test_a_chunk_with_a_damaged_header_is_requested_again_and_not_believed(field: str, value: int) -> None:
    """A damaged field causes no violation, drops no step and changes no count of steps."""
    harness = AdmissionHarness()
    harness.join("a")
    harness.open_batch()
    sent = harness.chunk("a")
    before = harness.registry.to_json(set())
    assert harness.send("a", replace(sent, **{field: value})) == [m.Resend(offset=0)]  # type: ignore[arg-type]
    assert harness.registry.to_json(set()) == before
    assert harness.take_violations() == []
    harness.send("a", sent)
    assert harness.admitted() == [("a", 0)]


def test_a_chunk_that_cannot_be_decoded_is_invalid_and_its_batch_is_granted_another() -> None:
    harness = AdmissionHarness(config=ONE_CHUNK_BATCH)
    harness.join("a", "b")
    harness.open_batch()
    harness.send_chunk("a")
    (chunk,) = harness.chunks
    harness.registry.reject_chunk(sid("a"), 0, chunk.batch, harness.now)
    assert harness.dropped() == {"invalid": CHUNK_STEPS}
    assert harness.granted() == {"b"}


def test_a_gap_is_requested_and_a_repeated_chunk_is_ignored() -> None:
    harness = AdmissionHarness()
    harness.join("a")
    harness.open_batch()
    assert m.Resend(offset=0) in harness.send_chunk("a", CHUNK_STEPS)
    harness.send_chunk("a", 0)
    harness.send_chunk("a", 0)
    assert harness.admitted() == [("a", 0)]
    assert harness.admission.duplicates == 1
    assert harness.dropped() == {}


def test_a_gap_is_requested_from_the_first_step_that_has_not_arrived() -> None:
    """Received steps that wait for their update are not sent again."""
    harness = AdmissionHarness()
    harness.join("a")
    harness.open_batch()
    harness.send_chunk("a", 0)
    assert m.Resend(offset=CHUNK_STEPS) in harness.send_chunk("a", 2 * CHUNK_STEPS)
    assert harness.admitted() == [("a", 0)]


def test_a_chunk_that_ends_beyond_its_credit_is_invalid() -> None:
    """The session has credit for one chunk and sends two."""
    harness = AdmissionHarness(config=ONE_CHUNK_BATCH)
    harness.join("a")
    harness.open_batch()
    harness.send_chunk("a")
    harness.send_chunk("a", CHUNK_STEPS)
    assert harness.admitted() == [("a", 0)]
    assert harness.dropped() == {"invalid": CHUNK_STEPS}


def test_a_chunk_without_a_grant_is_a_violation_and_takes_no_credit_of_others() -> None:
    """Otherwise one session could fill every batch."""
    harness = AdmissionHarness(config=ONE_CHUNK_BATCH)
    harness.join("a", "b")
    harness.open_batch()
    assert harness.granted() == {"a"}
    harness.send_chunk("b")
    assert harness.admitted() == []
    assert harness.dropped() == {"invalid": CHUNK_STEPS}
    assert len(harness.take_violations()) == 1


def test_a_grant_is_for_one_chunk_whatever_credit_the_session_has() -> None:
    """Skipped steps raise the credit; the chunks that it allows take no place that others were granted."""
    harness = AdmissionHarness()
    harness.join("a", "b", "c")
    harness.open_batch()
    assert harness.granted() == {"a", "b", "c"}
    facts = {"sid": sid("a"), "generation": GENERATION, "reason": "old_generation"}
    skip = m.Skip(offset=0, steps=CHUNK_STEPS, produced=CHUNK_STEPS, **facts)  # type: ignore[arg-type]
    assert last_ack(harness.send("a", skip)).credit == 2 * CHUNK_STEPS
    harness.registry.flows[sid("a")].raise_credit(4 * CHUNK_STEPS)
    for number in (1, 2, 3):
        harness.send_chunk("a", number * CHUNK_STEPS)
    harness.send_chunk("b")
    harness.send_chunk("c")
    assert harness.admitted() == [("a", CHUNK_STEPS), ("b", 0), ("c", 0)]
    assert harness.dropped() == {"old_generation": CHUNK_STEPS, "surplus": 2 * CHUNK_STEPS}


def test_a_skip_is_recorded_and_its_credit_returned() -> None:
    """The session then plays a whole chunk."""
    harness = AdmissionHarness(config=ONE_CHUNK_BATCH)
    harness.join("a")
    harness.open_batch()
    skip = m.Skip(sid=sid("a"), generation=GENERATION, offset=0, steps=3, produced=3, reason="old_generation")
    ack = last_ack(harness.send("a", skip))
    assert (ack.settled, ack.credit) == (3, CHUNK_STEPS + 3)
    harness.send_chunk("a", 3)
    assert harness.admitted() == [("a", 3)]
    assert harness.dropped() == {"old_generation": 3}


def test_the_steps_of_a_slot_are_counted_once_and_from_0_for_its_next_session() -> None:
    """A repeated chunk adds nothing."""
    harness = AdmissionHarness()
    harness.join("a")
    harness.open_batch()
    harness.send_chunk("a")
    harness.send_chunk("a")
    assert [flow.steps_received for flow in harness.registry.flows.values()] == [CHUNK_STEPS]
    harness.wait(LEASE_SECONDS + 0.25)
    harness.join("b")
    assert [flow.steps_received for flow in harness.registry.flows.values()] == [0]
