"""Measures the steps per second of the whole benchmark job, compared with the limit of this machine."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench.job import JOB, flags
from tests.bench.machine import hardware, limit
from tests.support.processes import free_port

_RUNS = 3
_ACTORS = 2
_TRAINED_STEPS = 6 * JOB.rollout.batch_steps
_WARMUP_STEPS = 4_096
_TIMEOUT_SECONDS = 900


def measure() -> dict[str, object]:
    """The median of three runs of PPO and RND on Breakout, 32 lanes x 128, with two local actors."""
    summaries = [_run(0) for _ in range(_RUNS)]
    best = limit(JOB)
    figures = _figures(summaries)
    training, collecting = figures["learner_busy_share"], figures["actors_busy_share"]
    slower = "the learner's training" if training > collecting else "the actors' collection"
    fraction = figures["steps_per_second"] / best["limit_steps_per_second"]
    return {
        **hardware(),
        "benchmark": "train",
        **figures,
        **best,
        "fraction_of_limit": round(fraction, 3),
        "bottleneck": slower,
    }


def compare_lags() -> dict[str, object]:
    """Run the job in the synchronous and in the overlapped mode, in alternation."""
    summaries = [(_run(0), _run(1)) for _ in range(_RUNS)]
    sync, overlap = (_figures(list(mode)) for mode in zip(*summaries, strict=True))
    ratios = sorted(
        float(overlapped["steps_per_second"]) / float(synchronous["steps_per_second"])
        for synchronous, overlapped in summaries
    )
    return {
        **hardware(),
        "benchmark": "lag",
        "max_lag_0": sync,
        "max_lag_1": overlap,
        "ratio": round(statistics.median(ratios), 3),
        "ratio_rounds": [round(ratio, 3) for ratio in ratios],
    }


def _figures(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """The median speed of several runs, and the times of the phases in the run with that speed."""
    speeds = [float(summary["steps_per_second"]) for summary in summaries]
    median = statistics.median(speeds)
    run = summaries[speeds.index(median)]
    learner, actors = run["phase_seconds"], run["actor_phase_seconds"]
    # The warm-up precedes the first batch and is not part of the measured time.
    stepping = actors["env"] * _TRAINED_STEPS / (_TRAINED_STEPS + _WARMUP_STEPS)
    collecting = (stepping + sum(actors[phase] for phase in ("policy", "bonus", "encode"))) / _ACTORS
    training = sum(learner[phase] for phase in ("assemble", "train", "publish"))
    wall = _TRAINED_STEPS / median
    return {
        "steps_per_second": median,
        "steps_per_second_runs": speeds,
        "learner_busy_share": round(training / wall, 3),
        "actors_busy_share": round(collecting / wall, 3),
        "learner_phase_seconds": learner,
        "actor_phase_seconds": actors,
        "wire_bytes_per_step": run["wire_bytes_per_step"],
    }


def _run(max_lag: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        rnd = replace(JOB.rnd, warmup_steps=_WARMUP_STEPS)
        config = replace(JOB, total_steps=_TRAINED_STEPS, max_lag=max_lag, rnd=rnd)
        argv = [sys.executable, "-m", "learner", *flags(config), "--local-actors", str(_ACTORS)]
        argv += ["--bind", f"tcp://127.0.0.1:{free_port()}", "--run-dir", str(run)]
        subprocess.run(argv, check=True, capture_output=True, timeout=_TIMEOUT_SECONDS)
        summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
        return summary
