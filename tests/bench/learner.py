"""Compares updates of PPO and RND with a plain float32 loop of the same losses and with a matrix product."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from common import envs
from common.config import Config
from common.model.precision import configure_torch, resolve_precision
from common.protocol.chunk import Chunk
from common.spaces import Spaces
from learner.training.batch import Batch, make_batch
from learner.training.ppo import PPO
from tests.bench.job import JOB
from tests.bench.machine import CORES, flops, hardware, matrix_ceiling, synchronise
from tests.bench.naive import Naive

_ROUNDS = 3
_GPU_LANES = 1024


def measure(device_name: str = "cpu") -> dict[str, object]:
    """Measure updates of the benchmark's job; on a GPU also those with the batch of a large fleet."""
    device = torch.device(device_name)
    configure_torch(threads=CORES)
    result: dict[str, object] = {
        **hardware(),
        "benchmark": "learner",
        "device": _name(device),
        "rounds": _ROUNDS,
    }
    result |= _measure(JOB, device)
    if device.type == "cuda":
        large = replace(JOB.rollout, batch_lanes=_GPU_LANES)
        keep = replace(JOB.rnd, predictor_keep=32 / _GPU_LANES)
        result["large"] = _measure(replace(JOB, rollout=large, rnd=keep), device)
    return result


def _measure(config: Config, device: torch.device) -> dict[str, object]:
    config = replace(config, precision=resolve_precision(config.precision, device))
    spaces = envs.spaces(config.env)
    batch = _batch(config, spaces, device)
    statistics_of = (torch.full((84, 84), 128.0, device=device), torch.full((84, 84), 64.0, device=device))
    ppo = PPO(config, spaces, device)
    naive = Naive(ppo, config, device)

    def subject() -> None:
        assert ppo.update(batch, statistics_of, 0.0) is not None

    subject()  # warms up
    synchronise(device)
    peak = _peak_bytes(device)  # before the reference allocates memory
    seconds: list[tuple[float, float]] = []
    ceilings = []
    for _ in range(_ROUNDS):
        ceilings.append(matrix_ceiling(device))
        ours = _seconds(subject, device)
        seconds.append((ours, _seconds(lambda: naive.update(batch, statistics_of), device)))
    ours, theirs = (statistics.median(x) for x in zip(*seconds, strict=True))
    samples = config.rollout.batch_steps * config.ppo.epochs
    speed = flops(config, spaces)[1] * config.rollout.batch_steps / ours
    return {
        "lanes": config.rollout.batch_lanes,
        "steps": config.rollout.steps,
        "passes": config.ppo.epochs,
        "predictor_keep": config.predictor_share,
        "precision": config.precision,
        "update_seconds": round(ours, 4),
        "samples_per_second": round(samples / ours),
        "env_steps_per_second": round(config.rollout.batch_steps / ours),
        "naive_update_seconds": round(theirs, 4),
        "naive_samples_per_second": round(samples / theirs),
        "ratio": round(statistics.median(b / a for a, b in seconds), 2),
        "ratio_rounds": [round(b / a, 2) for a, b in seconds],
        "gflops": round(speed / 1e9, 1),
        "matrix_ceiling_gflops": round(statistics.median(ceilings) / 1e9, 1),
        "fraction_of_ceiling": round(speed / statistics.median(ceilings), 3),
        "peak_memory_mb": round(peak / 1e6),
    }


def _batch(config: Config, spaces: Spaces, device: torch.device) -> Batch:
    """A batch of random images with a few episode ends."""
    rng = np.random.default_rng(0)
    steps, lanes = config.rollout.steps, config.rollout.batch_lanes
    grid = (steps, lanes)
    terminated = rng.random(grid) < 0.005
    chunk = Chunk(
        observation=rng.integers(0, 256, (spaces.stack + steps, lanes, *spaces.observation), np.uint8),
        final_observation=np.zeros((0, *spaces.observation), np.uint8),
        action=rng.integers(0, spaces.actions, grid, np.int32),
        log_prob=np.full(grid, -np.log(spaces.actions), np.float32),
        reward=(rng.random(grid) < 0.05).astype(np.float32),
        terminated=terminated,
        truncated=np.zeros(grid, np.bool_),
        life_lost=np.zeros(grid, np.bool_),
        room=np.zeros(grid, np.uint8),
        bonus=rng.random(grid, np.float32),
    )
    statistics_of = (torch.zeros(spaces.observation), torch.ones(spaces.observation))
    return make_batch(
        chunk, np.zeros(lanes, np.int64), chunk.reward, chunk.bonus, spaces, statistics_of, device
    )


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
