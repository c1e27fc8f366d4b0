"""How a session ends: by a Bye, by the exit of a local actor, or with the run."""

from __future__ import annotations

import pytest

from common.protocol import messages as m
from tests.support.admission_harness import CHUNK_STEPS, ONE_CHUNK_BATCH, AdmissionHarness, sid


def test_a_bye_is_acknowledged_once_every_step_has_arrived() -> None:
    """Missing steps are requested first; pending ones are trained later."""
    harness = AdmissionHarness()
    harness.join("a")
    harness.open_batch()
    bye = m.Bye(sid=sid("a"), produced=CHUNK_STEPS)
    assert harness.send("a", bye) == [m.Resend(offset=0)]
    harness.send_chunk("a")
    assert harness.send("a", bye) == [m.ByeAck()]
    assert harness.dropped() == {}
    assert harness.registry.events["leave"] == 1
    assert len(harness.registry.sessions) == 0


def test_a_bye_requests_only_the_steps_that_have_not_arrived() -> None:
    """Received steps that wait for their update are not sent again."""
    harness = AdmissionHarness()
    harness.join("a")
    harness.open_batch()
    harness.send_chunk("a")
    replies = harness.send("a", m.Bye(sid=sid("a"), produced=2 * CHUNK_STEPS))
    assert [reply for reply in replies if not isinstance(reply, m.Ack)] == [m.Resend(offset=CHUNK_STEPS)]


def test_the_exit_of_a_local_actor_ends_its_session_at_its_last_step() -> None:
    """Its parent process reads the number of steps; a second report changes nothing."""
    harness = AdmissionHarness()
    harness.join("a")
    harness.registry.local_actor_exited(sid("a"), 17)
    harness.registry.local_actor_exited(sid("a"), 23)
    assert len(harness.registry.sessions) == 0
    assert harness.dropped() == {"actor_lost": 17}


@pytest.mark.parametrize(("finished", "reason"), [(True, "run_finished"), (False, "learner_shutdown")])
def test_a_drained_run_leaves_no_step_in_flight(finished: bool, reason: str) -> None:
    """Steps of sessions that have not left, and chunks that arrive after the Drain, have the run's reason."""
    harness = AdmissionHarness()
    harness.join("a", "b", "c")
    harness.open_batch()
    harness.send_chunk("a")
    harness.send_chunk("b")
    harness.send_heartbeat("b", CHUNK_STEPS + 3)
    harness.replies += harness.registry.drain(finished)
    assert harness.replies_to("c")[-1] == m.Drain(finished=finished)
    assert harness.send("c", m.Bye(sid=sid("c"), produced=0)) == [m.ByeAck()]
    assert harness.send_hello("late") == [m.Drain(finished=finished)]
    harness.send_chunk("a", CHUNK_STEPS)  # was on its way when the learner sent the Drain
    harness.registry.close_remaining()
    totals = harness.registry.ledger.totals()
    assert (totals.imbalance, totals.in_flight, totals.produced) == (0, 0, 3 * CHUNK_STEPS + 3)
    assert totals.dropped == {reason: 3 * CHUNK_STEPS + 3}
    assert len(harness.registry.sessions) == 0


def test_a_drained_learner_grants_nothing() -> None:
    """The grant of a session that leaves goes to no other session."""
    harness = AdmissionHarness(config=ONE_CHUNK_BATCH)
    harness.join("a", "b")
    harness.open_batch()
    assert harness.granted() == {"a"}
    harness.replies += harness.registry.drain(finished=False)
    harness.send("a", m.Bye(sid=sid("a"), produced=0))
    harness.wait(1)
    assert harness.granted() == set()
