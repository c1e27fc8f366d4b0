"""The speed on the progress line is that of the last minute."""

from __future__ import annotations

import pytest

from learner.monitoring.progress_line import ProgressFacts, RecentRate

BATCH_STEPS = 480


def rate_after(times: list[float], window_seconds: float = 60.0) -> RecentRate:
    """Train one batch at each of these times but the first."""
    rate = RecentRate(window_seconds)
    for number, now in enumerate(times):
        rate.add(now, number * BATCH_STEPS)
    return rate


def test_a_pause_is_forgotten_after_a_window_and_the_mean_since_the_start_is_not_shown() -> None:
    times = [float(second) for second in (*range(10), *range(1_000, 1_121))]
    rate = rate_after(times)
    mean = 130 * BATCH_STEPS / 1_120
    assert rate.per_second(1_120.0) == pytest.approx(BATCH_STEPS)
    assert mean < 0.2 * BATCH_STEPS
    facts = ProgressFacts(0, 100 * BATCH_STEPS, 0, rate.per_second(1_120.0), None, None, 1, 0)
    assert "480 steps/s | ETA 0:01:40" in facts.text()


def test_a_steady_speed_is_shown_from_the_first_batch_on() -> None:
    for count in (2, 3, 50, 500):
        times = [0.5 * number for number in range(count)]
        assert rate_after(times).per_second(times[-1]) == pytest.approx(2 * BATCH_STEPS)


def test_the_speed_falls_while_nothing_is_trained() -> None:
    rate = rate_after([float(second) for second in range(100)])
    speeds = [rate.per_second(now) for now in (99.0, 129.0, 149.0)]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[1] == pytest.approx(BATCH_STEPS * 30 / 60)


def test_batches_that_take_longer_than_the_window_still_have_a_speed() -> None:
    rate = rate_after([0.0, 90.0, 180.0])
    assert rate.per_second(180.0) == pytest.approx(BATCH_STEPS / 90)
    assert rate.per_second(269.0) == pytest.approx(BATCH_STEPS / 179)


def test_there_is_no_speed_before_the_first_batch() -> None:
    assert rate_after([]).per_second(5.0) == rate_after([0.0]).per_second(5.0) == 0.0


def test_a_long_run_keeps_the_samples_of_one_window() -> None:
    rate = rate_after([0.1 * number for number in range(10_000)])
    assert len(rate._samples) <= 602
