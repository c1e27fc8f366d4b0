"""Builds and reads summary.json, which records how a run ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from common.config import Config
from learner.server.status import ServerStatus
from learner.training.episodes import EpisodeTracker
from learner.training.status import TrainerStatus


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """The time and progress of one learner process."""

    generation: int
    env_steps: int
    frames: int
    wall_seconds: float
    steps_per_second: float


def summarise(
    config: Config,
    process: ProcessFacts,
    trainer: TrainerStatus,
    episodes: EpisodeTracker,
    server: ServerStatus,
    exit_reason: str,
) -> dict[str, object]:
    """Return the fields of summary.json for a process that ends with `exit_reason`."""
    totals, report = server.totals, trainer.report
    return {
        "preset": config.preset,
        "env_id": config.env.id,
        "seed": config.seed,
        "env_steps": process.env_steps,
        "frames": process.frames,
        "updates": max(0, trainer.version),
        "episodes": episodes.count,
        "wall_seconds": round(process.wall_seconds, 3),
        "steps_per_second": round(process.steps_per_second, 2),
        "return_mean_100": episodes.mean,
        "return_max": episodes.best if episodes.count else None,
        "rooms_found": len(episodes.rooms) or None,
        "intrinsic_reward_mean": report.figures["intrinsic_reward_mean"] if report else None,
        "max_lag_seen": trainer.lag_max,
        "failed_updates": trainer.failed_updates,
        "produced_steps": totals.produced,
        "trained_steps": totals.trained,
        "dropped_steps": totals.dropped,
        "in_flight_steps": totals.in_flight,
        "imbalance_steps": totals.imbalance,
        "actors_seen": server.sessions_seen,
        "version": trainer.version,
        "epoch": process.generation,  # the name in every release, which readers of the file expect
        "exit_reason": exit_reason,
        "wire_bytes_per_step": round(server.chunk_bytes / server.chunk_steps, 1)
        if server.chunk_steps
        else None,
        "phase_seconds": {name: round(seconds, 3) for name, seconds in trainer.phase_seconds.items()},
        "actor_phase_seconds": {name: round(seconds, 3) for name, seconds in server.actor_phases.items()},
    }


def read_finished(run_dir: Path, config: Config) -> dict[str, object] | None:
    """Return the summary of a finished run that has nothing left to train; None for any other run."""
    try:
        summary: dict[str, object] = json.loads((run_dir / "summary.json").read_text())
        score = summary["return_mean_100"]
        complete = int(str(summary["updates"])) >= config.updates
        reached = config.stop_return is not None and float(str(score)) >= config.stop_return
        return summary if summary["exit_reason"] == "finished" and (complete or reached) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
