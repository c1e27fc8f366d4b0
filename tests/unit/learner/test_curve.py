"""A curve of any length is thinned to few points."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.monitoring.curve import Point, ThinnedCurve
from learner.monitoring.run_logger import RunLogger
from learner.training.episodes import Episode


@given(st.integers(1, 5_000), st.integers(1, 100_000))
def test_a_curve_of_any_length_has_few_points_from_its_start_to_its_end(updates: int, batch: int) -> None:
    """There are at most 400 points at equal gaps; the last point is less than a gap before the end."""
    curve = ThinnedCurve()
    for update in range(1, updates + 1):
        curve.add(Point(update * batch, float(update), None))
    steps = [point.env_steps for point in curve.points]
    gaps = {after - before for before, after in pairwise(steps)}
    assert len(steps) == updates if updates <= 400 else 200 <= len(steps) <= 400
    assert steps[0] == batch
    assert len(gaps) <= 1
    assert updates * batch - steps[-1] < max(gaps, default=1)
    assert all(point.return_mean == point.env_steps / batch for point in curve.points)


def test_episodes_of_an_earlier_process_give_the_mean_of_the_last_hundred() -> None:
    curve = ThinnedCurve()
    curve.replay((step, float(step)) for step in range(1, 301))
    early, last = curve.points[9], curve.points[-1]
    assert (early.env_steps, early.return_mean, early.bonus) == (10, pytest.approx(5.5), None)
    assert (last.env_steps, last.return_mean, last.bonus) == (300, pytest.approx(250.5), None)
    curve.add(Point(290, 0.0, 0.1))  # ignored: it is before the last point
    assert curve.points[-1].env_steps == 300


def test_a_resumed_run_begins_with_the_curve_of_its_recorded_episodes(tmp_path: Path) -> None:
    """Episodes after its checkpoint are in neither the resumed run nor the curve."""
    before = RunLogger(tmp_path, 0)
    for env_steps, score in ((100, 2.0), (200, 4.0), (300, 9.0)):
        before.episodes([Episode(0, 0, 10, score)], env_steps, 4 * env_steps, 1.0)
    before.close()
    after = RunLogger(tmp_path, 200)
    after.scalars({"episodes/return_mean_100": 5.0, "train/intrinsic_reward_mean": 0.1}, 300)
    after.close()
    assert after.curve.points == (Point(100, 2.0, None), Point(200, 3.0, None), Point(300, 5.0, 0.1))
