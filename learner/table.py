"""`python -m learner.table RUN_DIR...`: results of runs as a Markdown table, one row for all seeds.

Reads config.json, summary.json and, where there is one, evaluation.json. What is not known of a run
is a dash in its place: the score of an unfinished run, the evaluation of one that was not evaluated
at its end, the wall time of one that was resumed, because a summary tells that of its last process.
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
from learner.runs import groups, match_precision, read_config, settings, unusable

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
_OTHER_COLUMNS = ("preset", "seed", "total_steps", "env.id")  # settings that have a column of their own


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What evaluation.json says."""

    episodes: int
    score_mean: float
    greedy: bool


@dataclass(frozen=True, slots=True)
class Run:
    """What one run directory holds for a table; None is not known."""

    config: Config
    env_steps: int
    score_mean: float | None  # of the last 100 training episodes, once the run is finished
    evaluation: Evaluation | None  # of the run's last checkpoint
    wall_seconds: float | None
    steps_per_second: float | None


def _score(value: float) -> str:
    """Of large games and small tasks alike."""
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def load_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        Fatal: the configuration or the summary is missing, or a file is damaged.
    """
    config, file = read_config(path), path / "summary.json"
    try:
        facts = json.loads(file.read_text())
        score, env_steps = facts["return_mean_100"], int(facts["env_steps"])
        return Run(
            config,
            env_steps,
            float(score) if score is not None and facts["exit_reason"] == "finished" else None,
            _evaluation(path / "evaluation.json", env_steps),
            float(facts["wall_seconds"]) if facts["epoch"] == 0 else None,
            float(facts["steps_per_second"]) or None,  # 0: nothing was trained since the last resume
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unusable("the summary of a run", file, error) from None


def _evaluation(file: Path, env_steps: int) -> Evaluation | None:
    """What the checkpoint after `env_steps` scored; None for an earlier one."""
    try:
        facts = json.loads(file.read_text())
        played = Evaluation(int(facts["episodes"]), float(facts["score_mean"]), bool(facts.get("greedy")))
        return played if facts["env_steps"] == env_steps else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unusable("the evaluation of a run", file, error) from None


def markdown(runs: Sequence[Run]) -> str:
    """The table, without a line break at its end; groups in the order of their first runs."""
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *map(_row, groups(runs))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(group: Sequence[Run]) -> tuple[str, ...]:
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
    """The preset's name, and every setting that is not the preset's; a resolved "auto" is the preset's."""
    usual = settings(match_precision(PRESETS.get(config.preset, config), config))
    odd = [
        f"{name} = {value}"
        for name, value in settings(config).items()
        if name not in _OTHER_COLUMNS and value != usual[name]
    ]
    return ", ".join([config.preset, *odd])


def _each(values: Sequence[float | None], text: Callable[[float], str]) -> str:
    return "; ".join(_DASH if value is None else text(value) for value in values)  # numbers have commas


def _mean_and_each(scores: Sequence[float | None]) -> str:
    """The mean is a dash unless it is that of all seeds: one of some would flatter or slander."""
    known = [score for score in scores if score is not None]
    mean = statistics.fmean(known) if len(known) == len(scores) else None
    return _each([mean], _score) + (f" ({_each(scores, _score)})" if len(scores) > 1 else "")


def _span(counts: Sequence[int]) -> str:
    ends = sorted({min(counts), max(counts)}) if counts else []
    return " to ".join(f"{end:,}" for end in ends) or _DASH


def _episodes(evaluations: Sequence[Evaluation]) -> str:
    """How many, and whether they were played otherwise than in training."""
    manners = {evaluation.greedy for evaluation in evaluations}
    greedy = ", greedy" if manners == {True} else ", some greedy" if True in manners else ""
    return _span([evaluation.episodes for evaluation in evaluations]) + greedy


def insert(page: str, name: str, table: str) -> str:
    """The page with the table between the lines `<!-- table: NAME -->` and `<!-- end -->`.

    Raises:
        Fatal: there is not exactly one such pair of lines.
    """
    begin = f"<!-- table: {name} -->"
    between = rf"^({re.escape(begin)}\n)(?:(?!<!-- ).*\n)*(?=<!-- end -->$)"  # never over another marker
    changed, places = re.subn(between, lambda found: f"{found[1]}{table}\n", page, flags=re.MULTILINE)
    if places != 1:
        raise Fatal(
            EXIT_CONFIGURATION,
            f"expected the lines {begin} and <!-- end --> once, got {places} such pairs: write them there",
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
    parser.add_argument("--into", metavar="FILE.md", type=Path, help="write it there instead of printing it,")
    parser.add_argument("--name", help="between the lines <!-- table: NAME --> and <!-- end -->")
    options = parser.parse_args(argv)
    if (options.into is None) != (options.name is None):
        raise Fatal(EXIT_USAGE, "expected --into FILE.md with --name NAME, got one of them: add the other")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Tabulate results; returns the exit code."""

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
