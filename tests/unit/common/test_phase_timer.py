"""The phase timer against a clock that the test sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from common import phase_timer
from common.phase_timer import PhaseTimer
from tests.support.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(phase_timer, "time", clock)
    return clock


def test_each_phase_is_the_sum_of_its_blocks(clock: Clock) -> None:
    timer = PhaseTimer(("wait", "train", "save"))
    for phase, seconds in (("wait", 1.0), ("train", 4.0), ("wait", 2.0)):
        with timer.measure(phase):
            clock.now += seconds
        clock.now += 8.0  # between two blocks
    assert timer.seconds == {"wait": 3.0, "train": 4.0, "save": 0.0}


def test_the_time_of_a_block_that_raises_is_counted(clock: Clock) -> None:
    timer = PhaseTimer(("wait",))
    with pytest.raises(ValueError, match="stop"), timer.measure("wait"):
        clock.now += 1.0
        raise ValueError("stop")
    assert timer.seconds == {"wait": 1.0}


def test_time_without_a_core_is_taken_from_the_phases_of_a_computation(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the share of the whole block that had no core; the sum of the phases stays their time."""
    timer = PhaseTimer(("env", "policy", "wait", "core_wait"))
    waited = iter((10.0, 14.0))
    monkeypatch.setattr(phase_timer, "core_wait_seconds", lambda: next(waited))
    with timer.measure("wait"):
        clock.now += 5.0
    with timer.computation():
        for phase, seconds in (("env", 4.0), ("policy", 2.0), ("env", 2.0)):
            with timer.measure(phase):
                clock.now += seconds
        clock.now += 8.0  # outside the phases
        assert timer.seconds["env"] == 0.0  # changes once, so no reader sees a phase decrease
    assert timer.seconds == {"env": 4.5, "policy": 1.5, "wait": 5.0, "core_wait": 2.0}


@pytest.mark.parametrize("spent", [0.0, 1.0])
def test_no_phase_decreases_however_long_the_system_says_that_the_thread_waited(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, spent: float
) -> None:
    timer = PhaseTimer(("env", "core_wait"))
    waited = iter((0.0, 900.0))
    monkeypatch.setattr(phase_timer, "core_wait_seconds", lambda: next(waited))
    with timer.computation(), timer.measure("env"):
        clock.now += spent
    assert timer.seconds == {"env": 0.0, "core_wait": spent}


def test_the_wait_for_a_core_is_that_of_the_calling_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second number, in nanoseconds; a system without the file or with another one gives 0."""
    for text, seconds in (("7 2500000000 3\n", 2.5), ("7\n", 0.0), ("none here", 0.0), (None, 0.0)):
        path = tmp_path / "schedstat"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(phase_timer, "_SCHEDSTAT", path)
        assert phase_timer.core_wait_seconds() == seconds


def test_a_mapping_that_was_read_does_not_change(clock: Clock) -> None:
    """Other threads read it while the loop measures."""
    timer = PhaseTimer(("wait",))
    read = timer.seconds
    with timer.measure("wait"):
        clock.now += 1.0
    assert read == {"wait": 0.0}
    assert timer.seconds == {"wait": 1.0}


def test_a_phase_without_a_name_in_the_list_is_refused(clock: Clock) -> None:
    timer = PhaseTimer(("wait",))
    with pytest.raises(KeyError), timer.measure("train"):
        pass
