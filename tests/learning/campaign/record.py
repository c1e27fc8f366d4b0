"""What is kept of a run in docs/results/NAME.json: its figures and thinned curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from learner.curves import RunRecords
from tests.learning.campaign.rows import Row

POINTS = 200  # of each curve
_SCALARS = {
    "bonus": "train/intrinsic_reward_mean",
    "explained_variance": "train/explained_variance_extrinsic",
    "rooms": "episodes/rooms_found",
}
_SUMMARY = (
    *("env_steps", "frames", "updates", "episodes", "return_mean_100", "exit_reason", "failed_updates"),
    *("produced_steps", "trained_steps", "dropped_steps", "imbalance_steps", "actors_seen"),
)


def record(row: Row, run_dir: Path, commit: str, processor: str) -> dict[str, Any]:
    """The record of a run directory.

    Raises:
        OSError: a file of the run is missing.
        ValueError: a file of the run is damaged.
    """
    summary = json.loads((run_dir / "summary.json").read_text())
    evaluation = run_dir / "evaluation.json"
    played = json.loads(evaluation.read_text()) if evaluation.exists() else None
    if played is not None and played["env_steps"] != summary["env_steps"]:  # of an earlier checkpoint
        played = None
    return {
        "arm": row.arm.name,
        "seed": row.seed,
        "command": " ".join(("python -m learner", *row.arm.command(row.seed))),
        "precision": row.arm.precision,
        "commit": commit,
        "processor": processor,
        "summary": {name: summary[name] for name in _SUMMARY},
        "evaluation": played and {name: played[name] for name in ("episodes", "score_mean", "score_std")},
        "curve": curve(run_dir),
    }


def curve(run_dir: Path) -> dict[str, list[float | None]]:
    """Columns over the same at most `POINTS` updates; None where a value is unknown.

    `score` is the mean of the last 100 episodes; `hours` leave out the pauses of the run.
    """
    records = RunRecords(run_dir)
    hours = records.hours
    if hours is None:
        return {}
    kept = np.unique(np.linspace(0, len(hours.x) - 1, POINTS).round().astype(int))
    steps = [int(step) for step in hours.x[kept]]
    columns: dict[str, list[float | None]] = {"env_steps": [*steps]}
    columns["hours"] = [_rounded(value) for value in hours.y[kept].tolist()]
    for name, tag in _SCALARS.items():
        scalar = records.scalar(tag)
        values = {} if scalar is None else dict(zip(scalar.x.tolist(), scalar.y.tolist(), strict=True))
        columns[name] = [_rounded(values.get(step)) for step in steps]
    columns["score"] = [_rounded(records.episodes.score_at(step, run_steps=step)) for step in steps]
    return columns


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
