"""End to end: env steps/s of `make train`'s job, against the limit of this machine in the same run."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common.presets import PRESETS
from tests.bench.machine import hardware, limit
from tests.integration.processes import free_port

_RUNS = 3
_ACTORS = 2
_UPDATES = 6
_WARMUP_STEPS = 4_096
_TIMEOUT_SECONDS = 900


def measure() -> dict[str, object]:
    """Median of three runs of PPO+RND on Breakout, 32 lanes x 128, with two local actors."""
    config = PRESETS["breakout"]
    trained = _UPDATES * config.rollout.batch_steps
    summaries = [_run(trained) for _ in range(_RUNS)]
    speeds = [float(summary["steps_per_second"]) for summary in summaries]
    median = statistics.median(speeds)
    last = summaries[speeds.index(median)]
    best = limit(config)
    learner, actors = last["phase_seconds"], last["actor_phase_seconds"]
    # In the synchronous mode one side waits while the other works. Random play comes before the first batch.
    played = actors["env"] * trained / (trained + _WARMUP_STEPS)
    playing = (played + sum(actors[phase] for phase in ("policy", "bonus", "encode"))) / _ACTORS
    training = sum(learner[phase] for phase in ("assemble", "train", "publish"))
    wall = trained / float(last["steps_per_second"])
    side = "the learner's training" if training > playing else "the actors' playing"
    return {
        **hardware(),
        "benchmark": "train",
        "steps_per_second": median,
        "steps_per_second_runs": speeds,
        **best,
        "fraction_of_limit": round(median / best["limit_steps_per_second"], 3),
        "learner_phase_seconds": learner,
        "actor_phase_seconds": actors,
        "wire_bytes_per_step": last["wire_bytes_per_step"],
        "learner_busy_share": round(training / wall, 3),
        "actors_busy_share": round(playing / wall, 3),
        "held_back_by": side,
    }


def _run(total_steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        flags = {
            "--total-steps": total_steps,
            "--rnd.warmup-steps": _WARMUP_STEPS,
            "--local-actors": _ACTORS,
            "--bind": f"tcp://127.0.0.1:{free_port()}",
            "--run-dir": run,
        }
        argv = [
            sys.executable,
            "-m",
            "learner",
            "breakout",
            *(str(x) for pair in flags.items() for x in pair),
        ]
        subprocess.run(argv, check=True, capture_output=True, timeout=_TIMEOUT_SECONDS)
        summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
        return summary
