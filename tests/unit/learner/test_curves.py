"""Statistics of the learning curves of several runs, and the hours of a run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
import pytest

from learner.curves import (
    FinishedEpisodes,
    MetricCurve,
    bootstrap_interval,
    curve_of_runs,
    interquartile_mean,
    sliding_mean,
    training_hours,
)


def slow_interquartile_mean(values: Sequence[float]) -> float:
    """The mean of what is left after floor(0.25 n) values are cut at each end, as the paper defines it."""
    cut = math.floor(0.25 * len(values))
    kept = sorted(values)
    for _ in range(cut):
        kept = kept[1:-1]
    return statistics.fmean(kept)


def slow_percentile(values: Sequence[float], percent: float) -> float:
    """The percentile, interpolated between the two nearest values."""
    ordered, at = sorted(values), percent / 100 * (len(values) - 1)
    below = math.floor(at)
    above = min(below + 1, len(values) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


@pytest.mark.parametrize("runs", range(1, 14))
def test_the_interquartile_mean_is_that_of_a_slow_reference(runs: int) -> None:
    values = np.random.default_rng(runs).normal(size=(runs, 7))
    expected = [slow_interquartile_mean(column.tolist()) for column in values.T]
    np.testing.assert_allclose(interquartile_mean(values), expected, atol=1e-12)


@pytest.mark.parametrize("runs", [1, 2, 3])
def test_with_fewer_than_4_runs_the_interquartile_mean_is_the_mean(runs: int) -> None:
    values = np.random.default_rng(runs).normal(size=(runs, 5))
    np.testing.assert_allclose(interquartile_mean(values), values.mean(0))


def test_one_run_of_four_cannot_move_the_interquartile_mean_out_of_the_others() -> None:
    values = np.array([[1.0], [2.0], [3.0], [1e9]])
    assert interquartile_mean(values).tolist() == [2.5]


@pytest.mark.parametrize("runs", [3, 5, 8])
def test_the_interval_is_that_of_a_slow_reference(runs: int) -> None:
    generator = np.random.default_rng(runs)
    values = generator.normal(size=(runs, 4))
    samples = generator.integers(runs, size=(runs, 101))
    low, high = bootstrap_interval(values, samples)
    for point in range(values.shape[1]):
        means = [
            slow_interquartile_mean([float(values[run, point]) for run in sample]) for sample in samples.T
        ]
        assert low[point] == pytest.approx(slow_percentile(means, 2.5))
        assert high[point] == pytest.approx(slow_percentile(means, 97.5))


def test_the_interval_contains_the_interquartile_mean_and_lies_within_the_curves() -> None:
    x = np.array([0.0, 5.0, 10.0])
    curves = [MetricCurve(x, x * slope) for slope in (1.0, 2.0, 4.0, 5.0, 9.0)]
    drawn = curve_of_runs(curves)
    assert drawn is not None
    at, middle, low, high = drawn
    np.testing.assert_allclose(middle, 11 / 3 * at)  # of 2, 4 and 5
    assert ((at <= low + 1e-9) & (low <= middle) & (middle <= high) & (high <= 9.0 * at + 1e-9)).all()
    assert (low < middle)[1:].all()
    assert (middle < high)[1:].all()


def test_equal_runs_have_an_interval_of_no_width() -> None:
    curve = MetricCurve(np.array([0.0, 8.0]), np.array([1.0, 3.0]))
    drawn = curve_of_runs([curve] * 4)
    assert drawn is not None
    at, middle, low, high = drawn
    for line in (middle, low, high):
        np.testing.assert_allclose(line, 1.0 + at / 4)


def test_runs_without_a_common_x_have_no_curve() -> None:
    x = np.array([0.0, 5.0, 10.0])
    assert curve_of_runs([MetricCurve(x, x), MetricCurve(x + 20, x)]) is None


def test_the_sliding_mean_covers_all_values_so_far_up_to_its_window() -> None:
    assert sliding_mean(np.array([2.0, 4.0, 6.0, 1.0]), 3) == pytest.approx([2.0, 3.0, 4.0, 11 / 3])
    assert sliding_mean(np.array([2.0, 4.0]), 7) == pytest.approx([2.0, 3.0])


def test_pauses_do_not_count_as_hours() -> None:
    """Updates every 36 s, and a pause of a day."""
    times = np.array([0.0, 36.0, 72.0, 72.0 + 86_400.0, 108.0 + 86_400.0])
    np.testing.assert_allclose(training_hours(times), [0.0, 0.01, 0.02, 0.03, 0.04])
    assert training_hours(np.array([7.0])).tolist() == [0.0]


def test_the_score_at_a_step_is_that_of_the_update_before_it_within_the_run() -> None:
    steps = np.array([10.0, 20.0, 20.0, 40.0])
    episodes = FinishedEpisodes(steps, steps, np.array([1.0, 2.0, 6.0, 7.0]))
    assert [episodes.score_at(at) for at in (9, 10, 19, 20, 39, 40)] == [None, 1.0, 1.0, 3.0, 3.0, 4.0]
    assert [episodes.score_at(at) for at in (41, 60)] == [None, None]
    assert [episodes.score_at(at, run_steps=60) for at in (41, 60, 61)] == [4.0, 4.0, None]


def test_a_threshold_is_reached_by_the_mean_of_100_episodes_at_the_end_of_an_update() -> None:
    """Two episodes end in each update of 10 steps; the 100th ends in update 50."""
    steps = np.repeat(np.arange(10.0, 610.0, 10.0), 2)
    episodes = FinishedEpisodes(steps, 4 * steps, np.arange(120.0))
    assert episodes.first_steps_at(0.0) == 500.0
    assert episodes.first_steps_at(49.5) == 500.0  # the mean of 0 to 99
    assert episodes.first_steps_at(50.0) == 510.0
    assert episodes.first_steps_at(69.5) == 600.0
    assert episodes.first_steps_at(69.6) is None
    few = FinishedEpisodes(steps[:99], 4 * steps[:99], np.full(99, 5.0))
    assert few.first_steps_at(1.0) is None
