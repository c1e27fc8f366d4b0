"""`python -m learner.plot RUN_DIR... -o FILE.png`: draws the learning curves of runs.

Runs that differ in their seed alone form an arm. An arm of several runs has one curve, their interquartile
mean, with a 95 % bootstrap interval. The command reads config.json, episodes.csv and TensorBoard events, and
no checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from common import arguments
from common.config import Config
from common.files import write_atomically
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_USAGE, Fatal
from learner.curves import WINDOW, MetricCurve, RunRecords, curve_of_runs, sliding_mean
from learner.runs import group_by_settings, read_config, settings, unwritable_file

_SMOOTH = 50  # the intrinsic reward is averaged over 1 / 50 of the updates
_SAME_CURVE = ("seed", "total_steps", "stop_return")  # settings that may differ within a curve
_BONUS = "train/intrinsic_reward_mean"
_ROOMS = "episodes/rooms_found"
_METRICS = {  # with the text of the vertical axis
    "score": f"score, mean of {WINDOW} episodes",
    "bonus": "intrinsic reward per step",
    "rooms": "rooms found so far",
}
_AXES = {  # with the text of the horizontal axis
    "steps": "environment steps",
    "frames": "emulator frames",
    "hours": "hours of training, without pauses",
}
LEGEND = "thick line: interquartile mean; thin lines: seeds\nband: 95 % bootstrap interval"
_SUFFIXES = (".png", ".pdf", ".svg")
_TEXT, _QUIET = "#222222", "#6b7280"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#555555")


@dataclass(frozen=True, slots=True, eq=False)
class PlottedRun:
    """The curves of one run directory."""

    path: Path
    config: Config
    curve: MetricCurve  # the chosen metric
    bonus: MetricCurve | None  # below a score: the intrinsic reward; None without a bonus


def load_run(path: Path, metric: str = "score", axis: str = "steps") -> PlottedRun:
    """Read a run directory.

    Raises:
        Fatal: a file is missing, empty or damaged, or the run has no such metric.
    """
    config, records = read_config(path), RunRecords(path)
    below = None
    match metric:
        case "score":
            curve: MetricCurve | None = records.episodes.curve()
            below = _bonus(records, config)
        case "bonus":
            curve = _bonus(records, config)
        case _:
            curve = records.scalar(_ROOMS)
    if curve is None:
        tag = _BONUS if metric == "bonus" else _ROOMS
        raise Fatal(
            EXIT_CONFIGURATION,
            f"expected the scalar {tag} in the TensorBoard events of {path}, got none: "
            "name runs that record it, or choose another --metric",
        )
    return PlottedRun(
        path,
        config,
        _over(axis, curve, records, path),
        None if below is None else _over(axis, below, records, path),
    )


def _bonus(records: RunRecords, config: Config) -> MetricCurve | None:
    """Return the intrinsic reward, smoothed; None without a bonus or without events of it."""
    curve = records.scalar(_BONUS) if config.rnd.enabled else None
    if curve is None:
        return None
    return dataclasses.replace(curve, y=sliding_mean(curve.y, max(1, len(curve.y) // _SMOOTH)))


def _over(axis: str, curve: MetricCurve, records: RunRecords, path: Path) -> MetricCurve:
    """Return a curve over env steps as one over `axis`."""
    if axis == "frames":
        episodes = records.episodes
        return dataclasses.replace(curve, x=curve.x * (episodes.frames[-1] / episodes.env_steps[-1]))
    if axis == "hours":
        if records.hours is None:
            raise Fatal(
                EXIT_CONFIGURATION,
                f"expected the times of updates in the TensorBoard events of {path}, got none: "
                "choose --x steps or --x frames",
            )
        return dataclasses.replace(curve, x=records.hours.interpolate(curve.x))
    return curve


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


def draw(runs: Sequence[PlottedRun], metric: str = "score", axis: str = "steps") -> Figure:
    """Return the figure: the metric, and below a score the intrinsic reward of runs with a bonus."""
    groups = group_by_settings(runs)
    has_bonus = any(run.bonus is not None for run in runs)
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8.0, 6.4 if has_bonus else 4.6), dpi=150, layout="constrained")
        rows = figure.subplots(
            2 if has_bonus else 1, sharex=True, squeeze=False, height_ratios=[3, 1] if has_bonus else [1]
        )[:, 0]
        names = labels(groups)
        for number, group in enumerate(groups):
            colour = COLOURS[number % len(COLOURS)]
            draw_arm(rows[0], [run.curve for run in group], colour, names[number])
            bonus = [run.bonus for run in group if run.bonus is not None]
            if bonus:
                draw_arm(rows[1], bonus, colour, None)
        _format_titles(rows[0], runs)
        format_axes(list(rows), metric, axis)
        if len(runs) > 1:
            several = any(len(group) > 1 for group in groups)
            title = LEGEND if several else None
            rows[0].legend(frameon=False, loc="best", title=title, title_fontsize=9, alignment="left")
    return figure


def draw_arm(axes: Axes, curves: Sequence[MetricCurve], colour: str, name: str | None) -> None:
    """Draw an arm; several runs with a common x are thin lines below its curve."""
    arm = curve_of_runs(curves) if len(curves) > 1 else None
    if arm is None:
        for curve in curves:
            axes.plot(curve.x, curve.y, color=colour, linewidth=1.6, label=name)
            name = None
        return
    for curve in curves:
        axes.plot(curve.x, curve.y, color=colour, linewidth=0.7, alpha=0.35)
    x, middle, low, high = arm
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, middle, color=colour, linewidth=2.0, label=name)


def _format_titles(axes: Axes, runs: Sequence[PlottedRun]) -> None:
    games = sorted({run.config.env.id.replace("_", " ") for run in runs})
    seeds = sorted({run.config.seed for run in runs})
    axes.set_title(", ".join(games), loc="left", fontsize=14, fontweight="bold", color=_TEXT)
    subtitle = f"preset {', '.join(sorted({run.config.preset for run in runs}))}"
    subtitle += f"  ·  seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    axes.set_title(subtitle, loc="right", fontsize=9, color=_QUIET)


def format_axes(rows: Sequence[Axes], metric: str, axis: str) -> None:
    """Label the axes of a figure: the metric, and below a score the intrinsic reward."""
    rows[0].set_ylabel(_METRICS[metric])
    if metric != "score":
        rows[0].set_ylim(bottom=0.0)
    if metric == "rooms":
        rows[0].yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(rows) > 1:
        rows[1].set_ylabel("intrinsic\nreward")
        rows[1].set_ylim(bottom=0.0)
    rows[-1].set_xlabel(_AXES[axis])
    if axis != "hours":
        rows[-1].xaxis.set_major_formatter(EngFormatter(sep=""))
    for axes in rows:
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[:].set_color(_QUIET)
        axes.tick_params(colors=_QUIET, labelcolor=_TEXT)
        axes.margins(x=0.01)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.Parser(prog="python -m learner.plot", description="Draw the learning curves of runs.")
    parser.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", type=Path, help="directories of runs")
    parser.add_argument(
        "-o", "--output", metavar="FILE.png", type=Path, required=True, help="picture to write"
    )
    parser.add_argument("--metric", choices=list(_METRICS), default="score", help="what to draw (score)")
    parser.add_argument("--x", choices=list(_AXES), default="steps", help="the horizontal axis (steps)")
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
        runs = [load_run(path, options.metric, options.x) for path in options.run_dirs]
        _write(options.output, draw(runs, options.metric, options.x))
        sys.stdout.write(f"written to {options.output}\n")

    return arguments.exit_code(command, "plot")


if __name__ == "__main__":
    sys.exit(main())
