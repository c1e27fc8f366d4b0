"""Claims of steps that were not played give a session no more than one place of a batch."""

from __future__ import annotations

import pytest

from learner.server import validation
from tests.support.admission_harness import CHUNK_STEPS, CONFIG, HUGE, AdmissionHarness, batch_of, sid
from tests.unit.learner.test_hostile_sessions import hello, skip


@pytest.mark.parametrize("claimed", [0, CHUNK_STEPS], ids=["exact", "inflated"])
def test_chunks_that_a_session_sends_at_once_fill_one_place_of_a_batch(claimed: int) -> None:
    """Only the first answers a grant; the others arrive before the learner has told the session of a new one.

    A session inflates its credit by the claim of more steps in heartbeats before each grant.
    """
    harness = AdmissionHarness(config=batch_of(CONFIG, 8))
    harness.join("a")
    offset = 0
    harness.open_batch()
    for _ in range(4):
        harness.send_heartbeat("a", offset + CHUNK_STEPS + claimed)
        harness.send_chunk("a", offset)
        offset += CHUNK_STEPS
    assert len(harness.chunks) == 4
    harness.chunks.clear()
    for _ in range(8):
        harness.deliver("a", harness.chunk("a", offset))
        offset += CHUNK_STEPS
    assert len(harness.chunks) == 1
    assert harness.registry.ledger.totals().imbalance == 0


@pytest.mark.parametrize("known", [True, False], ids=["in the checkpoint", "not in the checkpoint"])
@pytest.mark.parametrize("claimed", [HUGE, -1], ids=["beyond the limit of the run", "the limit of the run"])
def test_a_returning_session_that_claims_many_steps_fills_one_place_of_a_batch(
    claimed: int, known: bool
) -> None:
    """A claim beyond the limit ends the session and is not counted."""
    harness = AdmissionHarness(generation=0)
    if known:
        harness.join("a")
    after = harness.restarted(set())
    after.open_batch()
    limit_steps = validation.session_steps_limit(CONFIG)
    steps = limit_steps if claimed < 0 else claimed
    after.send("a", hello(generation=0, base=0, produced=steps))
    for number in range(8):
        after.deliver("a", after.chunk("a", steps + number * CHUNK_STEPS))
        after.deliver("a", after.chunk("a", number * CHUNK_STEPS))
    assert len(after.chunks) == (1 if claimed < 0 else 0)
    assert after.registry.ledger.totals().produced <= limit_steps + 4 * CHUNK_STEPS
    assert after.dropped().keys() <= {"surplus", "learner_rollback"}


def test_a_skip_gives_credit_for_one_whole_chunk_and_no_more() -> None:
    """The credit of a grant is for a chunk after the steps that were skipped."""
    harness = AdmissionHarness()
    harness.join("a")
    harness.open_batch()
    for number in range(4):
        harness.send("a", skip("a", number, 1, number + 1))
    assert harness.registry.flows[sid("a")].credit == 4 + CHUNK_STEPS
    harness.send_chunk("a", 4)
    assert harness.admitted() == [("a", 4)]
