"""When the lease of a silent session ends, what is recorded then, and which times of its actor are summed."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from common.config import RNDConfig
from common.protocol import messages as m
from learner.server.sessions import LEASE_SECONDS
from tests.support.admission_harness import CHUNK_STEPS, CONFIG, AdmissionHarness, sid


def playing() -> AdmissionHarness:
    """A harness with session "a", which has sent its first chunk, so that its setup is over."""
    harness = AdmissionHarness()
    harness.join("a")
    harness.open_batch()
    harness.send_chunk("a")
    return harness


def test_silence_ends_a_session_and_drops_the_steps_that_it_announced() -> None:
    """Steps that arrived are still trained."""
    harness = playing()
    harness.send_heartbeat("a", CHUNK_STEPS + 7, phase_env=2.0, other=1.0)
    harness.wait(LEASE_SECONDS)
    assert len(harness.registry.sessions) == 1
    harness.wait(0.25)
    assert len(harness.registry.sessions) == 0
    assert harness.dropped() == {"actor_lost": 7}
    assert harness.registry.ledger.totals().in_flight == CHUNK_STEPS
    assert harness.registry.events["lost"] == 1
    assert harness.registry.sessions.phase_seconds["env"] == 2.0
    harness.registry.settle([(sid("a"), 0)], "trained")
    assert harness.registry.ledger.totals().trained == CHUNK_STEPS


def test_a_new_session_has_two_minutes_to_build_its_environments() -> None:
    """Its actor cannot send messages meanwhile; the heartbeats before do not shorten the time."""
    harness = AdmissionHarness()
    harness.join("a")
    harness.wait(119)
    assert len(harness.registry.sessions) == 1
    harness.wait(2)
    assert len(harness.registry.sessions) == 0


def test_every_session_has_two_minutes_to_reset_its_lanes_after_the_warm_up() -> None:
    """Until its first chunk of a bundle; later, silence ends it after one lease."""
    harness = AdmissionHarness(config=replace(CONFIG, rnd=RNDConfig(warmup_steps=3 * CHUNK_STEPS)))
    harness.join("a")
    harness.open_batch(version=-1)
    harness.send_chunk("a", version=-1)
    harness.open_batch(version=0)
    harness.send_heartbeat("a", CHUNK_STEPS)
    harness.wait(119)
    assert len(harness.registry.sessions) == 1
    harness.send_chunk("a", CHUNK_STEPS)
    harness.wait(LEASE_SECONDS + 1)
    assert len(harness.registry.sessions) == 0


def test_a_new_version_extends_no_lease() -> None:
    """Only the end of the warm-up does, because actors do not reset their lanes at other versions."""
    harness = playing()
    harness.open_batch(version=1)
    harness.wait(LEASE_SECONDS + 0.25)
    assert len(harness.registry.sessions) == 0


def test_a_stall_of_the_learner_extends_every_lease_by_its_length() -> None:
    harness = playing()
    harness.wait(1)
    harness.now += 60.0
    harness.registry.tick(harness.now)
    harness.wait(LEASE_SECONDS - 1.25)
    assert len(harness.registry.sessions) == 1
    harness.wait(0.75)
    assert len(harness.registry.sessions) == 0


def test_the_phase_times_of_an_actor_count_once_over_its_sessions() -> None:
    """An actor continues its times in its next session, so the first heartbeat of a session is a baseline."""
    harness = playing()
    harness.send_heartbeat("a", CHUNK_STEPS, phase_env=500.0)
    harness.wait(LEASE_SECONDS + 0.25)
    assert len(harness.registry.sessions) == 0
    harness.send_hello("b")
    harness.send_heartbeat("b", 0, phase_env=520.0)
    assert harness.registry.sessions.phase_seconds["env"] == 500.0
    harness.send_heartbeat("b", 0, phase_env=523.0)
    assert harness.registry.sessions.phase_seconds["env"] == 503.0


def test_the_sums_of_phase_times_never_fall_and_have_no_other_names_than_the_phases() -> None:
    """Whatever an actor sends: they are exported as counters, and the names as labels."""
    harness = AdmissionHarness()
    harness.join("a")
    for seconds in (4.0, 1.0, 2.0):
        harness.send_heartbeat("a", 0, phase_env=seconds, phase_x=9.0, steps=1.0)
    assert harness.registry.sessions.phase_seconds == dict.fromkeys(get_args(m.Phase), 0.0) | {"env": 5.0}
