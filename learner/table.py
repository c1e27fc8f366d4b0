"""`python -m learner.table RUN_DIR...`: writes a Markdown table of results, one row for all seeds of a run.

The command reads config.json, summary.json and, if it exists, evaluation.json. A dash stands for an unknown
value: the score of an unfinished run, the evaluation of a run that was not evaluated at its end, and the wall
time of a resumed run, because a summary has only that of its last process.

With `--curve` the columns are points of the learning curves, which come from episodes.csv, and the hours from
the TensorBoard events. A dash stands for a value that any seed lacks, such as the score beyond its length.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import arguments
from common.config import Config
from common.files import write_atomically
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_USAGE, Fatal
from learner.curves import RunRecords
from learner.monitoring.progress_line import duration
from learner.presets import PRESETS
from learner.runs import group_by_settings, match_precision, read_config, settings, unreadable_file

_COLUMNS = (
    "game",
    "preset",
    "seeds",
    "env steps",
    "last 100 training episodes, each seed",
    "evaluation, mean (each seed)",
    "evaluation episodes",
    "wall time",
    "steps/s",
)
_CURVE_POINTS = {"0.5M": 500_000, "1M": 1_000_000, "2M": 2_000_000, "4M": 4_000_000, "10M": 10_000_000}
_DASH = "—"
_OTHER_COLUMNS = ("preset", "seed", "total_steps", "env.id")  # settings that have a column


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The contents of evaluation.json."""

    episodes: int
    score_mean: float
    greedy: bool


@dataclass(frozen=True, slots=True)
class TabulatedRun:
    """The results of one run directory; None if unknown."""

    config: Config
    env_steps: int
    score_mean: float | None  # of the last 100 training episodes, once the run is finished
    evaluation: Evaluation | None  # of the run's last checkpoint
    wall_seconds: float | None
    steps_per_second: float | None


@dataclass(frozen=True, slots=True)
class TabulatedCurve:
    """Points of the learning curve of one run directory; None if unknown or never reached."""

    config: Config
    scores: list[float | None]  # mean of the last 100 episodes at each of `_CURVE_POINTS`
    steps_to_threshold: float | None
    hours_to_threshold: float | None


def _score(value: float) -> str:
    """Return a score as text."""
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def load_run(path: Path) -> TabulatedRun:
    """Read a run directory.

    Raises:
        Fatal: the configuration or the summary is missing, or a file is damaged.
    """
    config, file = read_config(path), path / "summary.json"
    try:
        facts = json.loads(file.read_text())
        score, env_steps = facts["return_mean_100"], int(facts["env_steps"])
        return TabulatedRun(
            config,
            env_steps,
            float(score) if score is not None and facts["exit_reason"] == "finished" else None,
            _evaluation(path / "evaluation.json", env_steps),
            float(facts["wall_seconds"]) if facts["epoch"] == 0 else None,
            float(facts["steps_per_second"]) or None,  # 0: no update since the last resume
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unreadable_file("the summary of a run", file, error) from None


def _evaluation(file: Path, env_steps: int) -> Evaluation | None:
    """Return the evaluation of the checkpoint at `env_steps`; None if there is none of that checkpoint."""
    try:
        facts = json.loads(file.read_text())
        played = Evaluation(int(facts["episodes"]), float(facts["score_mean"]), bool(facts.get("greedy")))
        return played if facts["env_steps"] == env_steps else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unreadable_file("the evaluation of a run", file, error) from None


def load_curve(path: Path, threshold: float | None = None) -> TabulatedCurve:
    """Read the learning curve of a run directory.

    Raises:
        Fatal: the configuration or the episodes are missing or damaged.
    """
    config, records = read_config(path), RunRecords(path)
    # Episodes may end long before the end of a run, which only a summary knows.
    run_steps = load_run(path).env_steps if (path / "summary.json").exists() else 0
    scores = [records.episodes.score_at(point, run_steps) for point in _CURVE_POINTS.values()]
    steps, hours = (None, None) if threshold is None else records.first_at(threshold)
    return TabulatedCurve(config, scores, steps, hours)


def markdown(runs: Sequence[TabulatedRun]) -> str:
    """Return the table without a final line break; rows are in the order of their first runs."""
    return _lines(_COLUMNS, map(_row, group_by_settings(runs)))


def curve_markdown(runs: Sequence[TabulatedCurve], threshold: float | None = None) -> str:
    """Return the table of learning curves, with steps and hours to a threshold if there is one."""
    reach = () if threshold is None else (f"steps to {threshold:,g}", f"hours to {threshold:,g}")
    columns = (*_COLUMNS[:3], *(f"score at {name}" for name in _CURVE_POINTS), *reach)
    rows = (_curve_row(group)[: len(columns)] for group in group_by_settings(runs))
    return _lines(columns, rows)


def _lines(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ("---",) * len(columns), *rows))


def _curve_row(runs: Sequence[TabulatedCurve]) -> tuple[str, ...]:
    """Return the cells of an arm; those of the threshold are last."""
    scores = zip(*(run.scores for run in runs), strict=True)
    steps = [run.steps_to_threshold for run in runs]
    hours = [run.hours_to_threshold for run in runs]
    return (
        *_arm([run.config for run in runs]),
        *(_of_all_seeds(at, statistics.fmean, _score) for at in scores),
        _of_all_seeds(steps, statistics.median, "{:,.0f}".format),
        _of_all_seeds(hours, statistics.median, "{:.2f}".format),
    )


def _of_all_seeds(
    values: Sequence[float | None], middle: Callable[[Sequence[float]], float], text: Callable[[float], str]
) -> str:
    """Return a mean or median over seeds; a dash unless every seed has a value."""
    known = [value for value in values if value is not None]
    return text(middle(known)) if len(known) == len(values) else _DASH


def _arm(configs: Sequence[Config]) -> tuple[str, str, str]:
    """Return the cells that name runs which differ in their seed alone."""
    seeds = sorted(config.seed for config in configs)
    return configs[0].env.id, _preset(configs[0]), ", ".join(map(str, seeds))


def _row(group: Sequence[TabulatedRun]) -> tuple[str, ...]:
    runs = sorted(group, key=lambda run: run.config.seed)
    return (
        *_arm([run.config for run in runs]),
        _span([run.env_steps for run in runs]),
        _each([run.score_mean for run in runs], _score),
        _mean_and_each([run.evaluation.score_mean if run.evaluation else None for run in runs]),
        _episodes([run.evaluation for run in runs if run.evaluation]),
        _each([run.wall_seconds for run in runs], duration),
        _each([run.steps_per_second for run in runs], "{:,.0f}".format),
    )


def _preset(config: Config) -> str:
    """Return the preset's name and every setting that differs; a resolved "auto" does not differ."""
    default = settings(match_precision(PRESETS.get(config.preset, config), config))
    differing = [
        f"{name} = {value}"
        for name, value in settings(config).items()
        if name not in _OTHER_COLUMNS and value != default[name]
    ]
    return ", ".join([config.preset, *differing])


def _each(values: Sequence[float | None], text: Callable[[float], str]) -> str:
    # Not separated by commas, which numbers contain.
    return "; ".join(_DASH if value is None else text(value) for value in values)


def _mean_and_each(scores: Sequence[float | None]) -> str:
    """Return the mean over seeds and each score; the mean is a dash unless every seed has a score."""
    mean = _of_all_seeds(scores, statistics.fmean, _score)
    return mean + (f" ({_each(scores, _score)})" if len(scores) > 1 else "")


def _span(counts: Sequence[int]) -> str:
    ends = sorted({min(counts), max(counts)}) if counts else []
    return " to ".join(f"{end:,}" for end in ends) or _DASH


def _episodes(evaluations: Sequence[Evaluation]) -> str:
    """Return the number of episodes, and whether actions were greedy."""
    modes = {evaluation.greedy for evaluation in evaluations}
    greedy = ", greedy" if modes == {True} else ", some greedy" if True in modes else ""
    return _span([evaluation.episodes for evaluation in evaluations]) + greedy


def insert(page: str, name: str, table: str) -> str:
    """Return the page with the table between the lines `<!-- table: NAME -->` and `<!-- end -->`.

    Raises:
        Fatal: there is not exactly one such pair of lines.
    """
    begin = f"<!-- table: {name} -->"
    between = rf"^({re.escape(begin)}\n)(?:(?!<!-- ).*\n)*(?=<!-- end -->$)"  # never across another marker
    changed, matches = re.subn(between, lambda found: f"{found[1]}{table}\n", page, flags=re.MULTILINE)
    if matches != 1:
        raise Fatal(
            EXIT_CONFIGURATION,
            f"expected the lines {begin} and <!-- end --> once, got {matches} such pairs: write them there",
        )
    return changed


def _insert_into(file: Path, name: str, table: str) -> None:
    try:
        page = insert(file.read_text("utf-8"), name, table)
        write_atomically(file, page.encode())
    except (OSError, UnicodeDecodeError) as error:
        raise Fatal(
            EXIT_CONFIGURATION,
            f"expected to change {file}, got an error ({error}): name a Markdown file that can be written",
        ) from None


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.Parser(prog="python -m learner.table", description="Tabulate the results of runs.")
    parser.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", type=Path, help="directories of runs")
    parser.add_argument(
        "--into", metavar="FILE.md", type=Path, help="write the table into this page instead of printing it"
    )
    parser.add_argument(
        "--name", help="with --into: the table goes between the lines <!-- table: NAME --> and <!-- end -->"
    )
    parser.add_argument(
        "--curve",
        action="store_true",
        help=f"tabulate the scores at {', '.join(_CURVE_POINTS)} steps instead",
    )
    parser.add_argument(
        "--threshold",
        metavar="SCORE",
        type=float,
        help="with --curve: add the steps and hours until the mean of 100 episodes first reaches SCORE",
    )
    options = parser.parse_args(argv)
    if options.threshold is not None and not options.curve:
        raise Fatal(EXIT_USAGE, "expected --threshold SCORE with --curve, got it alone: add --curve")
    if (options.into is None) != (options.name is None):
        raise Fatal(EXIT_USAGE, "expected --into FILE.md with --name NAME, got one of them: add the other")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Tabulate results; return the exit code."""

    def command() -> None:
        options = _options(argv)
        if options.curve:
            curves = [load_curve(path, options.threshold) for path in options.run_dirs]
            table = curve_markdown(curves, options.threshold)
        else:
            table = markdown([load_run(path) for path in options.run_dirs])
        if options.into is None:
            sys.stdout.write(f"{table}\n")
        else:
            _insert_into(options.into, options.name, table)
            sys.stdout.write(f"written to {options.into}\n")

    return arguments.exit_code(command, "table")


if __name__ == "__main__":
    sys.exit(main())
