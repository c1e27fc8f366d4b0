"""The phase timer against a clock that the test sets."""

from __future__ import annotations

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
