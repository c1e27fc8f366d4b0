"""`python -m learner.table RUN_DIR...`: writes a Markdown table of results, one row for all seeds of a run.

The command reads config.json, summary.json and, if it exists, evaluation.json. A dash stands for an unknown
value: the score of an unfinished run, the evaluation of a run that was not evaluated at its end, and the wall
time of a resumed run, because a summary has only that of its last process.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import arguments
from common.config import Config
from common.files import write_atomically
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_USAGE, Fatal
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


def markdown(runs: Sequence[TabulatedRun]) -> str:
    """Return the table without a final line break; rows are in the order of their first runs."""
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *map(_row, group_by_settings(runs))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(group: Sequence[TabulatedRun]) -> tuple[str, ...]:
    runs = sorted(group, key=lambda run: run.config.seed)
    return (
        runs[0].config.env.id,
        _preset(runs[0].config),
        ", ".join(str(run.config.seed) for run in runs),
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
    known = [score for score in scores if score is not None]
    mean = statistics.fmean(known) if len(known) == len(scores) else None
    return _each([mean], _score) + (f" ({_each(scores, _score)})" if len(scores) > 1 else "")


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
    options = parser.parse_args(argv)
    if (options.into is None) != (options.name is None):
        raise Fatal(EXIT_USAGE, "expected --into FILE.md with --name NAME, got one of them: add the other")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Tabulate results; return the exit code."""

    def command() -> None:
        options = _options(argv)
        table = markdown([load_run(path) for path in options.run_dirs])
        if options.into is None:
            sys.stdout.write(f"{table}\n")
        else:
            _insert_into(options.into, options.name, table)
            sys.stdout.write(f"written to {options.into}\n")

    return arguments.exit_code(command, "table")


if __name__ == "__main__":
    sys.exit(main())
