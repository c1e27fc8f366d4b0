"""Reads the learning curves of a run directory, and computes the statistics of several runs.

A curve comes from episodes.csv, or from the TensorBoard events of the run.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.process.lifecycle import EXIT_CONFIGURATION, Fatal
from learner.monitoring import episode_file
from learner.runs import unreadable_file

WINDOW = 100  # episodes behind each point of a score
_RESAMPLES = 2_000  # of the bootstrap
_POINTS = 400  # of the curve of several runs
_PAUSE = 5.0  # a longer gap between two updates, in median gaps, is a pause of the run
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class MetricCurve:
    """A metric of one run, with increasing x."""

    x: F64
    y: F64

    def interpolate(self, x: F64) -> F64:
        """Return the metric at each `x`; outside of the curve, that of its nearer end."""
        return np.interp(x, self.x, self.y)


@dataclass(frozen=True, slots=True, eq=False)
class FinishedEpisodes:
    """The finished episodes of a run, in the order of their updates. Each array is [episodes]."""

    env_steps: F64
    frames: F64
    score: F64

    def curve(self) -> MetricCurve:
        """Return the mean score of the last `WINDOW` episodes over env steps, at the end of each update."""
        last = np.append(self.env_steps[1:] != self.env_steps[:-1], True)
        return MetricCurve(self.env_steps[last], sliding_mean(self.score, WINDOW)[last])

    def score_at(self, env_steps: int, run_steps: int = 0) -> float | None:
        """Return the mean score of the last `WINDOW` episodes at `env_steps`.

        It is None before the first episode, and beyond both the last episode and the `run_steps` of the run.
        """
        curve = self.curve()
        end = np.searchsorted(curve.x, env_steps, side="right")
        return float(curve.y[end - 1]) if end and env_steps <= max(run_steps, curve.x[-1]) else None

    def first_steps_at(self, threshold: float) -> float | None:
        """Return the first env steps at which the mean of `WINDOW` episodes is at least `threshold`."""
        curve = self.curve()
        episodes = np.searchsorted(self.env_steps, curve.x, side="right")
        reached = curve.x[(episodes >= WINDOW) & (curve.y >= threshold)]
        return float(reached[0]) if len(reached) else None


class RunRecords:
    """The recorded curves of a run directory; each file is read when it is first used."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    @functools.cached_property
    def episodes(self) -> FinishedEpisodes:
        """The finished episodes.

        Raises:
            Fatal: episodes.csv is missing or has no readable row.
        """
        file = self._run_dir / "episodes.csv"
        try:
            rows, unreadable = episode_file.read(file)
        except OSError as error:
            raise unreadable_file("finished episodes", file, error) from None
        if not rows:
            raise Fatal(
                EXIT_CONFIGURATION,
                f"expected finished episodes in {file}, got none: wait until the run has finished some",
            )
        if unreadable:  # a learner may be writing the last one
            sys.stderr.write(f"warning: skipped {unreadable} unreadable rows of {file}\n")
        rows.sort(key=lambda row: row.env_steps)
        columns = np.array([(row.env_steps, row.frames, row.score) for row in rows], np.float64)
        return FinishedEpisodes(*columns.T)

    @functools.cached_property
    def _events(self) -> Any:
        return load_events(self._run_dir)

    def scalar(self, tag: str) -> MetricCurve | None:
        """Return a TensorBoard scalar over env steps; None if the events do not have it."""
        return self._curve(tag, "value")

    @functools.cached_property
    def hours(self) -> MetricCurve | None:
        """The hours of training over env steps, without pauses; None if there are no events of updates."""
        times = self._curve("train/policy_loss", "wall_time")
        return None if times is None else MetricCurve(times.x, training_hours(times.y))

    def first_at(self, threshold: float) -> tuple[float | None, float | None]:
        """Return the env steps and the hours at which the mean of `WINDOW` episodes first is `threshold`.

        Both are None if the run never reaches it; the hours are None if they are unknown.
        """
        steps = self.episodes.first_steps_at(threshold)
        if steps is None or self.hours is None:
            return steps, None
        return steps, float(self.hours.interpolate(np.array(steps)))

    def _curve(self, tag: str, field: str) -> MetricCurve | None:
        if tag not in self._events.Tags()["scalars"]:
            return None
        # Of two points with the same step, the later one counts: it is of the process that resumed the run.
        points = {point.step: getattr(point, field) for point in self._events.Scalars(tag)}
        x, y = np.array(sorted(points.items()), np.float64).T
        return MetricCurve(x, y)


def load_events(run_dir: Path) -> Any:
    """Read the TensorBoard events of a run directory into an `EventAccumulator`."""
    # The import is slow, and only curves other than the score need it.
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0})
    events.Reload()
    return events


def training_hours(times: F64) -> F64:
    """Return the hours from the first of `times`, those of updates in seconds, without the run's pauses."""
    gaps = np.diff(times, prepend=times[:1]).clip(0.0)
    typical = np.median(gaps[1:]) if len(gaps) > 1 else 0.0
    gaps[gaps > _PAUSE * typical] = typical
    gaps[:1] = 0.0
    total: F64 = gaps.cumsum() / 3600
    return total


def sliding_mean(values: F64, window: int) -> F64:
    """Return the mean of the last `window` values at each index, or of all values so far at the beginning."""
    sums = np.cumsum(values)
    sums[window:] -= sums[:-window].copy()
    mean: F64 = sums / np.minimum(np.arange(1, len(values) + 1), window)
    return mean


def interquartile_mean(values: F64) -> F64:
    """Return the mean over the first axis without the lowest and the highest quarter of the values.

    A quarter is rounded down: with fewer than 4 values nothing is cut, and the result is the mean.

    Source: Agarwal et al. 2021, arXiv:2108.13264, section 4.3.
    """
    cut = len(values) // 4
    kept: F64 = np.sort(values, axis=0)[cut : len(values) - cut]
    return np.asarray(kept.mean(0), np.float64)


def bootstrap_interval(values: F64, samples: I64) -> tuple[F64, F64]:
    """Return the bounds of the 95 % percentile interval of the interquartile mean.

    The bootstrap is stratified by task, and the values are of one task: any run may replace any other.

    Args:
        values: [runs, points].
        samples: indices of runs, drawn with replacement, [runs, resamples].

    Returns:
        The lower and the upper bound, each [points].

    Source: Agarwal et al. 2021, arXiv:2108.13264, section 4.1.
    """
    low, high = np.percentile(interquartile_mean(values[samples]), [2.5, 97.5], axis=0)
    return low, high


def curve_of_runs(curves: Sequence[MetricCurve]) -> tuple[F64, F64, F64, F64] | None:
    """Return the interquartile mean of runs with its interval, or None if no x is common to all.

    With fewer than 4 runs the interquartile mean is the mean. Whole curves are resampled. The interval is
    pointwise: it holds at each x alone.

    Returns:
        x, interquartile mean, lower and upper bound of the 95 % bootstrap interval, each [400].
    """
    first, last = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    if first >= last:
        return None
    x = np.linspace(first, last, _POINTS)
    values = np.stack([curve.interpolate(x) for curve in curves])
    samples = np.random.default_rng(0).integers(len(values), size=(len(values), _RESAMPLES))
    return x, interquartile_mean(values), *bootstrap_interval(values, samples)
