"""What this machine can do: the references that rates are compared with."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from common import envs
from common.chunk import Spaces
from common.config import Config
from common.networks import make_policy, make_predictor, make_target
from common.precision import has_bfloat16

CORES = os.cpu_count() or 1


def hardware() -> dict[str, object]:
    """Processor, cores and arithmetic."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return {"processor": name, "cores": CORES, "bfloat16": has_bfloat16(), "torch": torch.__version__}


def matrix_ceiling() -> float:
    """FLOP/s of a large matrix product on all cores, in the default precision."""
    torch.set_num_threads(CORES)
    dtype = torch.bfloat16 if has_bfloat16() else torch.float32
    a, b = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(5):
            a @ b
        best = max(best, 5 * 2 * 1024**3 / (time.perf_counter() - start))
    return best


def emulator_rate(config: Config, lanes: int = 16, steps: int = 100) -> float:
    """Steps/s of the bare vector emulator under random play, one core."""
    env = envs.make(config.env, lanes)
    actions = envs.spaces(config.env).actions
    env.reset(np.arange(lanes))
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(steps):
        env.step(rng.integers(0, actions, lanes).astype(np.int32))
    rate = lanes * steps / (time.perf_counter() - start)
    env.close()
    return rate


def flops_per_step(config: Config, spaces: Spaces) -> float:
    """Arithmetic behind one trained step: acting, rating, and learning; a backward pass counts double."""

    def forward(network: torch.nn.Module, *shape: int) -> float:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, *shape))
        return float(counter.get_total_flops())

    network, ppo, rnd = config.network, config.ppo, config.rnd
    policy = forward(make_policy(spaces, network), spaces.stack, *spaces.observation)
    total = policy + policy * (1 + 3 * ppo.epochs)
    if rnd.enabled:
        target = forward(make_target(spaces, network), *spaces.observation)
        predictor = forward(make_predictor(spaces, network), *spaces.observation)
        total += target + predictor + target + predictor * 3 * ppo.epochs * rnd.predictor_keep
    return total


def limit(config: Config) -> dict[str, float]:
    """The most steps/s that this machine could train, were every part as fast as its own ceiling."""
    ceiling, emulator = matrix_ceiling(), emulator_rate(config)
    flops = flops_per_step(config, envs.spaces(config.env))
    return {
        "emulator_steps_per_second_core": round(emulator),
        "matrix_ceiling_gflops": round(ceiling / 1e9),
        "mflop_per_step": round(flops / 1e6),
        "limit_steps_per_second": round(1 / (1 / (emulator * CORES) + flops / ceiling), 1),
    }
