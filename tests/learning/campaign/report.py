"""The part of docs/results.md that is made from docs/results/*.json, and its picture.

python -m tests.learning.campaign.report    # the picture; `python -m tests.ci.generate` writes the text
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from learner.curves import MetricCurve
from learner.plot import COLOURS, LEGEND, draw_arm, format_axes
from tests.learning.campaign.rows import ARMS, Arm

PAGE = Path(__file__).parents[3] / "docs" / "results.md"
DIRECTORY = PAGE.parent / "results"
_BEGIN, _END = "<!-- campaign -->\n", "<!-- end of campaign -->\n"
_MILESTONES = (500_000, 1_000_000, 2_000_000)
_ABSENT = "—"
Record = Mapping[str, Any]


def read_records(directory: Path = DIRECTORY) -> dict[str, Record]:
    """The records by the name of their row."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))}


def state(arm: Arm, kept: Record | None) -> str:
    """What is done of a row: "not run", "finished", or how far a partial run is."""
    if kept is None:
        return "not run"
    done = int(kept["summary"]["env_steps"])
    return "finished" if done >= arm.budget_steps else f"{done:,} of {arm.budget_steps:,} steps"


def score_at(kept: Record, env_steps: int) -> float | None:
    """The mean training score of the last 100 episodes after so many steps; None if the run is shorter."""
    curve = kept["curve"]
    reached = [
        score for step, score in zip(curve["env_steps"], curve["score"], strict=True) if step >= env_steps
    ]
    return reached[0] if reached else None


def section(records: Mapping[str, Record]) -> str:
    """The table of every row, and one line for each record with its command and machine."""
    headings = [
        "run",
        "target",
        "seeds",
        "state",
        *(f"at {x / 1e6:g}M" for x in _MILESTONES),
        "evaluation",
        "verdict",
    ]
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    for arm in ARMS:
        kept = [records.get(f"{arm.name}-{seed}") for seed in arm.seeds]
        lines.append(f"| {' | '.join(_cells(arm, kept))} |")
    lines += ["", "| row | command | processor | commit | hours |", "|---|---|---|---|---|"]
    for name, one in records.items():
        spent = one["curve"]["hours"][-1]
        lines.append(f"| {name} | `{one['command']}` | {one['processor']} | {one['commit']} | {spent:.1f} |")
    return "\n".join(lines) + "\n"


def _cells(arm: Arm, kept: list[Record | None]) -> list[str]:
    runs = [one for one in kept if one is not None]
    played = [one["evaluation"] for one in runs if one["evaluation"]]
    states = [state(arm, one) for one in kept]
    return [
        arm.title,
        _target(arm),
        ", ".join(map(str, arm.seeds)),
        "; ".join(states[:1] if len(set(states)) == 1 else states),
        *(_each(score_at(one, steps) for one in runs) for steps in _MILESTONES),
        _each(one["score_mean"] for one in played),
        _verdict(arm, played),
    ]


def _target(arm: Arm) -> str:
    if arm.target is None:
        return _ABSENT
    margin = f" and {arm.standard_errors} standard errors" if arm.standard_errors else ""
    return f"{arm.target:g}{margin}"


def _each(values: Iterable[float | None]) -> str:
    """The values, each seed, or a dash if none is known."""
    listed = list(values)
    known = any(value is not None for value in listed)
    return "; ".join(_ABSENT if value is None else f"{value:.1f}" for value in listed) if known else _ABSENT


def _verdict(arm: Arm, played: list[Record]) -> str:
    """Whether the mean score of all seeds reaches the target; open until every seed is evaluated."""
    if len(played) < len(arm.seeds):
        return "open"
    if arm.target is None:
        return "reported"
    mean = statistics.fmean(one["score_mean"] for one in played)
    variance = statistics.fmean(one["score_std"] ** 2 for one in played)
    error = math.sqrt(variance / sum(one["episodes"] for one in played))
    exceeds = mean > arm.target or not arm.standard_errors
    return "met" if exceeds and mean >= arm.target + arm.standard_errors * error else "missed"


def page(records: Mapping[str, Record], text: str) -> str:
    """docs/results.md with the section replaced."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{section(records)}{_END}{after}"


def draw(records: Mapping[str, Record], arms: Iterable[str]) -> Figure:
    """The training scores of the arms by steps, and their bonus below."""
    figure = Figure(figsize=(8.0, 6.4), dpi=150, layout="constrained")
    rows = list(figure.subplots(2, sharex=True, height_ratios=[3, 1]))
    for colour, arm in zip(COLOURS, (arm for arm in ARMS if arm.name in set(arms)), strict=False):
        kept = [records[name] for seed in arm.seeds if (name := f"{arm.name}-{seed}") in records]
        for axes, column, label in zip(rows, ("score", "bonus"), (arm.title, None), strict=True):
            curves = [curve for one in kept if len((curve := _curve(one, column)).x)]
            if curves:
                draw_arm(axes, curves, colour, label)
    format_axes(rows, "score", "steps")
    rows[0].legend(frameon=False, title=LEGEND, title_fontsize=9, alignment="left")
    return figure


def _curve(kept: Record, column: str) -> MetricCurve:
    """One column of a record over its steps; steps without a value are left out."""
    pairs = zip(kept["curve"]["env_steps"], kept["curve"][column], strict=True)
    points = np.array([pair for pair in pairs if pair[1] is not None], np.float64).reshape(-1, 2)
    return MetricCurve(*points.T)


def main() -> int:
    """Draw the picture of Freeway with and without the bonus."""
    names = ("freeway", "freeway-one-actor", "freeway-4-epochs", "freeway-no-bonus")
    figure = draw(read_records(), names)
    FigureCanvasAgg(figure).print_png(str(PAGE.parent / "freeway.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
