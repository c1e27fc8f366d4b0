"""`python -m learner.plot RUN_DIR... -o FILE.png`: draws the learning curves of runs.

Runs that differ in their seed alone become one curve, their mean, with a confidence band. Other runs have a
curve each. The command reads config.json, episodes.csv and TensorBoard events, and no checkpoint.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from common import arguments
from common.config import Config
from common.files import write_atomically
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_USAGE, Fatal
from learner.monitoring import episode_file
from learner.runs import group_by_settings, read_config, settings, unreadable_file, unwritable_file

WINDOW = 100  # episodes behind each point
_RESAMPLES = 2_000  # of the bootstrap
_POINTS = 400  # of a mean curve
_SMOOTH = 50  # the intrinsic reward is averaged over 1 / 50 of the updates
_SAME_CURVE = ("seed", "total_steps", "stop_return")  # settings that may differ within a curve
_SCALAR = "train/intrinsic_reward_mean"
_SUFFIXES = (".png", ".pdf", ".svg")
_TEXT, _QUIET = "#222222", "#6b7280"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#555555")
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class PlotCurve:
    """Points with increasing x."""

    x: F64
    y: F64


@dataclass(frozen=True, slots=True, eq=False)
class PlottedRun:
    """The curves of one run directory."""

    path: Path
    config: Config
    score: PlotCurve  # mean raw score of the last `WINDOW` episodes over env steps
    intrinsic: PlotCurve | None  # mean intrinsic reward of each update; None without a bonus


def load_run(path: Path) -> PlottedRun:
    """Read a run directory.

    Raises:
        Fatal: a file is missing, empty or damaged.
    """
    config = read_config(path)
    return PlottedRun(
        path, config, _scores(path / "episodes.csv"), _intrinsic(path) if config.rnd.enabled else None
    )


def _scores(file: Path) -> PlotCurve:
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
        sys.stderr.write(f"plot: skipped {unreadable} unreadable rows of {file}\n")
    points = sorted(((row.env_steps, row.score) for row in rows), key=lambda point: point[0])
    steps, score = np.array(points, np.float64).T
    last = np.append(steps[1:] != steps[:-1], True)  # one point for all episodes that end in one update
    return PlotCurve(steps[last], sliding_mean(score, WINDOW)[last])


def sliding_mean(values: F64, window: int) -> F64:
    """Return the mean of the last `window` values at each index, or of all values so far at the beginning."""
    sums = np.cumsum(values)
    sums[window:] -= sums[:-window].copy()
    mean: F64 = sums / np.minimum(np.arange(1, len(values) + 1), window)
    return mean


def load_events(path: Path) -> Any:
    """Read the TensorBoard events of a run directory into an `EventAccumulator`."""
    # The import is slow, and only curves other than the score need it.
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    events = EventAccumulator(str(path), size_guidance={"scalars": 0})
    events.Reload()
    return events


def _intrinsic(path: Path) -> PlotCurve | None:
    """Return the run's intrinsic reward, smoothed; None if there are no events of it."""
    events = load_events(path)
    if _SCALAR not in events.Tags()["scalars"]:
        return None
    points = events.Scalars(_SCALAR)
    values = np.array([point.value for point in points])
    return PlotCurve(
        np.array([float(point.step) for point in points]),
        sliding_mean(values, max(1, len(values) // _SMOOTH)),
    )


def labels(groups: Sequence[Sequence[PlottedRun]]) -> list[str]:
    """Return a label for each group: its game, preset or differing settings if unique, else its directory."""
    if len(groups) == 1:
        return [f"{len(groups[0])} seeds"]
    flat = [settings(group[0].config) for group in groups]
    differing = [
        name for name in flat[0] if name not in _SAME_CURVE and len({str(one[name]) for one in flat}) > 1
    ]
    candidates = [
        [str(one["env.id"]) for one in flat],
        [str(one["preset"]) for one in flat],
        [", ".join(f"{name} = {one[name]}" for name in differing[:2]) for one in flat],
        [group[0].path.resolve().name for group in groups],
    ]
    names = next((one for one in candidates if len(set(one)) == len(groups)), candidates[-1])
    return [
        f"{name}, {len(group)} seeds" if len(group) > 1 else name
        for name, group in zip(names, groups, strict=True)
    ]


def mean_with_band(curves: Sequence[PlotCurve]) -> tuple[F64, F64, F64, F64] | None:
    """Return the mean of curves with its 95 % bootstrap interval, or None if no x is common to all.

    Whole curves are resampled with replacement. The interval is pointwise: it holds at each x alone.

    Returns:
        x, mean, lower and upper bound of the interval, each [400].

    Source: Efron and Tibshirani 1993, section 13.3 (percentile interval).
    """
    first, last = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    if first >= last:
        return None
    x = np.linspace(first, last, _POINTS)
    y = np.stack([np.interp(x, curve.x, curve.y) for curve in curves])
    generator = np.random.default_rng(0)
    weights = generator.multinomial(len(y), np.full(len(y), 1 / len(y)), _RESAMPLES) / len(y)
    low, high = np.percentile(weights @ y, [2.5, 97.5], axis=0)
    return x, y.mean(0), low, high


def draw(runs: Sequence[PlottedRun]) -> Figure:
    """Return the figure: scores, and below them the intrinsic reward of runs with a bonus."""
    groups = group_by_settings(runs)
    has_bonus = any(run.intrinsic is not None for run in runs)
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8.0, 6.4 if has_bonus else 4.6), dpi=150, layout="constrained")
        rows = figure.subplots(
            2 if has_bonus else 1, sharex=True, squeeze=False, height_ratios=[3, 1] if has_bonus else [1]
        )[:, 0]
        names = labels(groups)
        for number, group in enumerate(groups):
            colour = _COLOURS[number % len(_COLOURS)]
            _draw_curves(rows[0], [run.score for run in group], colour, names[number])
            bonus = [run.intrinsic for run in group if run.intrinsic is not None]
            if bonus:
                _draw_curves(rows[1], bonus, colour, None)
        _format(list(rows), runs, banded=any(len(group) > 1 for group in groups))
    return figure


def _draw_curves(axes: Axes, curves: Sequence[PlotCurve], colour: str, name: str | None) -> None:
    band = mean_with_band(curves) if len(curves) > 1 else None
    if band is None:
        for curve in curves:
            axes.plot(curve.x, curve.y, color=colour, linewidth=1.6, label=name)
            name = None
        return
    for curve in curves:
        axes.plot(curve.x, curve.y, color=colour, linewidth=0.7, alpha=0.35)
    x, mean, low, high = band
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, mean, color=colour, linewidth=2.0, label=name)


def _format(rows: Sequence[Axes], runs: Sequence[PlottedRun], banded: bool) -> None:
    """Set titles, axes and legend."""
    games = sorted({run.config.env.id.replace("_", " ") for run in runs})
    seeds = sorted({run.config.seed for run in runs})
    rows[0].set_title(", ".join(games), loc="left", fontsize=14, fontweight="bold", color=_TEXT)
    subtitle = f"preset {', '.join(sorted({run.config.preset for run in runs}))}"
    subtitle += f"  ·  seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    rows[0].set_title(subtitle, loc="right", fontsize=9, color=_QUIET)
    rows[0].set_ylabel(f"score, mean of {WINDOW} episodes")
    if len(rows) > 1:
        rows[1].set_ylabel("intrinsic\nreward")
        rows[1].set_ylim(bottom=0.0)
    rows[-1].set_xlabel("environment steps")
    rows[-1].xaxis.set_major_formatter(EngFormatter(sep=""))
    for axes in rows:
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[:].set_color(_QUIET)
        axes.tick_params(colors=_QUIET, labelcolor=_TEXT)
        axes.margins(x=0.01)
    if len(runs) > 1:
        title = "mean and its 95 % bootstrap interval" if banded else None
        rows[0].legend(frameon=False, loc="best", title=title, title_fontsize=9, alignment="left")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.Parser(prog="python -m learner.plot", description="Draw the learning curves of runs.")
    parser.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", type=Path, help="directories of runs")
    parser.add_argument(
        "-o", "--output", metavar="FILE.png", type=Path, required=True, help="picture to write"
    )
    options = parser.parse_args(argv)
    if options.output.suffix not in _SUFFIXES:
        known = ", ".join(_SUFFIXES)
        raise Fatal(EXIT_USAGE, f"expected -o FILE.png, got {options.output}: end the name in one of {known}")
    return options


def _write(file: Path, figure: Figure) -> None:
    picture = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(picture, format=file.suffix[1:])
    try:
        if file.is_dir():
            raise IsADirectoryError(0, "it is a directory")
        write_atomically(file, picture.getvalue())
    except OSError as error:
        raise unwritable_file(file, error, "name a file in a writable directory") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Draw learning curves; return the exit code."""

    def command() -> None:
        options = _options(argv)
        _write(options.output, draw([load_run(path) for path in options.run_dirs]))
        sys.stdout.write(f"written to {options.output}\n")

    return arguments.exit_code(command, "plot")


if __name__ == "__main__":
    sys.exit(main())
