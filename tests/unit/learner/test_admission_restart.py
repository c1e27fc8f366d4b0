"""How sessions continue with a learner that restarts from a checkpoint."""

from __future__ import annotations

import pytest

from common.protocol import messages as m
from tests.support.admission_harness import (
    CHUNK_STEPS,
    GENERATION,
    HUGE,
    AdmissionHarness,
    last_ack,
    sid,
)


def test_a_session_continues_with_the_next_generation() -> None:
    """It keeps its slot, begins a new incarnation, and sends again what was not settled."""
    harness = AdmissionHarness()
    harness.join("a", "b")
    harness.open_batch()
    harness.send_chunk("b")
    harness.registry.settle([(sid("b"), 0)], "trained")
    harness.send_chunk("b", CHUNK_STEPS)  # pending: a checkpoint does not hold its data
    after = harness.restarted(set())
    after.open_batch(version=1)
    assert after.granted() == set()  # no session is connected
    welcome = after.send_hello("b", generation=GENERATION, base=CHUNK_STEPS, produced=2 * CHUNK_STEPS)[0]
    assert isinstance(welcome, m.Welcome)
    assert (welcome.slot, welcome.incarnation) == (1, 1)
    assert (welcome.received, welcome.settled) == (CHUNK_STEPS, CHUNK_STEPS)
    after.send_chunk("b", CHUNK_STEPS, generation=GENERATION)
    assert after.dropped() == {"old_generation": CHUNK_STEPS}
    after.wait(29)
    assert {session.sid for session in after.registry.sessions} == {sid("a"), sid("b")}
    after.wait(2)
    assert {session.sid for session in after.registry.sessions} == {sid("b")}  # "a" had 30 s to return


@pytest.mark.parametrize("abandoned", [False, True], ids=["complete", "abandoned"])
def test_an_actor_that_collects_while_it_rejoins_gets_credit_for_a_whole_chunk(abandoned: bool) -> None:
    """It plays further steps of its chunk after its Hello, so its grant ends before the next whole chunk."""
    harness = AdmissionHarness()
    harness.join("a")
    after = harness.restarted(set())
    after.open_batch()
    welcome = after.send_hello("a", generation=GENERATION, produced=4)[0]
    assert isinstance(welcome, m.Welcome) and welcome.credit == 4 + CHUNK_STEPS
    steps = CHUNK_STEPS - 1 if abandoned else CHUNK_STEPS
    if abandoned:  # the Welcome has arrived
        facts = {"sid": sid("a"), "generation": GENERATION + 1, "offset": 0, "reason": "old_generation"}
        replies = after.send("a", m.Skip(steps=steps, produced=steps, **facts))  # type: ignore[arg-type]
    else:
        replies = after.send_chunk("a", generation=GENERATION)
    assert last_ack(replies).credit == steps + CHUNK_STEPS
    after.send_chunk("a", steps)
    assert after.admitted() == [("a", steps)]
    assert after.take_violations() == []


def test_steps_that_were_settled_after_the_checkpoint_are_recorded_as_rolled_back() -> None:
    """The actor no longer holds them. A session that the checkpoint does not know is accepted."""
    harness = AdmissionHarness()
    harness.join("a")
    after = harness.restarted(set())
    after.send_hello("a", generation=GENERATION, base=3 * CHUNK_STEPS, produced=4 * CHUNK_STEPS)
    after.send_hello("b", generation=GENERATION, base=CHUNK_STEPS, produced=CHUNK_STEPS)
    assert after.dropped() == {"learner_rollback": 4 * CHUNK_STEPS}
    assert after.registry.ledger.totals().in_flight == CHUNK_STEPS


def test_a_restart_ends_the_sessions_of_local_actors() -> None:
    """Their processes ended with the learner: their steps are recorded and their slots are free."""
    harness = AdmissionHarness()
    harness.join("a", "b")
    harness.send_heartbeat("a", 7)
    after = harness.restarted({sid("a")})
    assert after.dropped() == {"actor_lost": 7}
    assert [session.sid for session in after.registry.sessions] == [sid("b")]
    welcome = after.send_hello("c")[-1]
    assert isinstance(welcome, m.Welcome)
    assert (welcome.slot, welcome.incarnation) == (0, 1)


def test_a_session_with_more_steps_than_the_run_ends_without_a_violation() -> None:
    """An honest actor exceeds the limit if its learner restarts many times from one checkpoint."""
    harness = AdmissionHarness()
    harness.join("a")
    after = harness.restarted(set())
    (reply,) = after.send_hello("a", generation=GENERATION, produced=HUGE)
    assert isinstance(reply, m.Reject)
    assert (reply.code, reply.sid, reply.produced) == ("lost", sid("a"), HUGE)
    assert after.take_violations() == []
    assert after.registry.ledger.totals().produced == 0
