"""What is kept of a run in docs/results/NAME.json: its figures and thinned curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from learner.curves import WINDOW, load_events, sliding_mean, training_hours
from learner.monitoring import episode_file
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
    scalars = _scalars(run_dir)
    steps = np.array(sorted(scalars["hours"]))
    if not len(steps):
        return {}
    kept = steps[np.unique(np.linspace(0, len(steps) - 1, POINTS).round().astype(int))]
    columns: dict[str, list[float | None]] = {"env_steps": [int(step) for step in kept]}
    for name, values in scalars.items():
        columns[name] = [_rounded(values.get(int(step))) for step in kept]
    rows, _ = episode_file.read(run_dir / "episodes.csv")
    rows.sort(key=lambda row: row.env_steps)
    means = sliding_mean(np.array([row.score for row in rows], np.float64), WINDOW)
    ended = np.searchsorted([row.env_steps for row in rows], kept, side="right")
    columns["score"] = [_rounded(float(means[count - 1])) if count else None for count in ended]
    return columns


def _scalars(run_dir: Path) -> dict[str, dict[int, float]]:
    """Return the scalars of each update by its step; the value of the last process counts."""
    events = load_events(run_dir)
    known = events.Tags()["scalars"]
    found = {
        name: {point.step: point.value for point in events.Scalars(tag)} if tag in known else {}
        for name, tag in _SCALARS.items()
    }
    times = {point.step: point.wall_time for point in events.Scalars("train/policy_loss")}
    steps = sorted(times)
    hours = training_hours(np.array([times[step] for step in steps], np.float64))
    return {"hours": dict(zip(steps, hours.tolist(), strict=True)), **found}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
