"""The fields of summary.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from common.config import Config
from learner.server.status import ServerStatus
from learner.training.episodes import EpisodeTracker
from learner.training.status import TrainerStatus


@dataclass(frozen=True, slots=True)
class Clock:
    """Of one process: how long it ran, how far the run is, how fast it trained."""

    generation: int
    env_steps: int
    frames: int
    wall_seconds: float
    steps_per_second: float


def summarise(
    config: Config,
    clock: Clock,
    progress: TrainerStatus,
    episodes: EpisodeTracker,
    view: ServerStatus,
    exit_reason: str,
) -> dict[str, object]:
    """One run in numbers, after `exit_reason` ended its process."""
    totals, report = view.totals, progress.report
    return {
        "preset": config.preset,
        "env_id": config.env.id,
        "seed": config.seed,
        "env_steps": clock.env_steps,
        "frames": clock.frames,
        "updates": max(0, progress.version),
        "episodes": episodes.count,
        "wall_seconds": round(clock.wall_seconds, 3),
        "steps_per_second": round(clock.steps_per_second, 2),
        "return_mean_100": episodes.mean,
        "return_max": episodes.best if episodes.count else None,
        "intrinsic_reward_mean": report.figures["intrinsic_reward_mean"] if report else None,
        "max_lag_seen": progress.lag_max,
        "failed_updates": progress.failed_updates,
        "produced_steps": totals.produced,
        "trained_steps": totals.trained,
        "dropped_steps": totals.dropped,
        "in_flight_steps": totals.in_flight,
        "imbalance_steps": totals.imbalance,
        "actors_seen": view.sessions_seen,
        "version": progress.version,
        "epoch": clock.generation,
        "exit_reason": exit_reason,
        "wire_bytes_per_step": round(view.chunk_bytes / view.chunk_steps, 1) if view.chunk_steps else None,
        "phase_seconds": {name: round(seconds, 3) for name, seconds in progress.phase_seconds.items()},
        "actor_phase_seconds": {name: round(seconds, 3) for name, seconds in view.actor_phases.items()},
    }


def of_finished_run(run_dir: Path, config: Config) -> dict[str, object] | None:
    """The summary of a run that has nothing left to train; None if it has, or never ended."""
    try:
        summary: dict[str, object] = json.loads((run_dir / "summary.json").read_text())
        score = summary["return_mean_100"]
        complete = int(str(summary["updates"])) >= config.updates
        reached = config.stop_return is not None and float(str(score)) >= config.stop_return
        return summary if summary["exit_reason"] == "finished" and (complete or reached) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
