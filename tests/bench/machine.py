"""Measures what this machine can do at most, as a reference for the benchmarks."""

from __future__ import annotations

import os
import platform
import resource
import time
from pathlib import Path

import ale_py
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch.utils.flop_counter import FlopCounterMode

from common import atari, envs
from common.config import Config
from common.cores import usable_cores
from common.model.networks import make_policy, make_predictor, make_target
from common.model.precision import has_bfloat16, resolve_precision
from common.spaces import Spaces

CORES = usable_cores()
_CPU = torch.device("cpu")


def hardware() -> dict[str, object]:
    """The processor, its cores, its arithmetic and the version of PyTorch."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return {"processor": name, "cores": CORES, "bfloat16": has_bfloat16(), "torch": torch.__version__}


class Load:
    """The load of other processes during a measurement; the page shows it beside the figures."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        ticks = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        ours = os.times()
        return time.monotonic(), busy, ours.user + ours.system + ours.children_user + ours.children_system

    def of_others(self) -> float:
        """The mean number of cores that other processes used; call it after all children have ended."""
        wall, busy, ours = (now - then for now, then in zip(self._now(), self._start, strict=True))
        return round(max(0.0, busy - ours) / wall, 2)


def cpu_seconds() -> float:
    """The processor time of this process, over all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_ceiling(device: torch.device = _CPU) -> float:
    """The FLOP/s of a large matrix product in the default precision; a CPU uses all cores."""
    torch.set_num_threads(CORES)
    dtype = torch.bfloat16 if resolve_precision("auto", device) == "bfloat16" else torch.float32
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(10):
        synchronise(device)
        start = time.perf_counter()
        for _ in range(5):
            a @ b
        synchronise(device)
        best = max(best, 5 * 2 * size**3 / (time.perf_counter() - start))
    return best


class Emulator:
    """ALE's vector environment alone, with random actions, on one core."""

    def __init__(self, config: Config, lanes: int = 16) -> None:
        rom = atari.rom_of(config.env.id)
        assert rom is not None, f"expected an Atari game, got {config.env.id}"
        self._env = ale_py.AtariVectorEnv(
            rom,
            lanes,
            num_threads=1,
            max_num_frames_per_episode=config.env.max_frames,
            repeat_action_probability=config.env.sticky,
            autoreset_mode=AutoresetMode.SAME_STEP,
            noop_max=0,
            reward_clipping=False,
            use_fire_reset=False,
        )
        self._actions = envs.spaces(config.env).actions
        self._rng = np.random.default_rng(0)
        self._lanes = lanes
        self._env.reset(seed=np.arange(lanes))

    def measure_rate(self, steps: int = 100) -> float:
        """The steps per second of all lanes together, over `steps` steps of each lane."""
        actions = self._rng.integers(0, self._actions, (steps, self._lanes), np.int32)
        start = time.perf_counter()
        for action in actions:
            self._env.step(action)
        return self._lanes * steps / (time.perf_counter() - start)

    def close(self) -> None:
        """Free the lanes."""
        self._env.close()


def _forward_flops(network: torch.nn.Module, *shape: int) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *shape))
    return float(counter.get_total_flops())


def flops(config: Config, spaces: Spaces) -> tuple[float, float]:
    """The FLOP of one step, in the actor and in the updates; a backward pass counts as two forward passes."""
    network, ppo, rnd = config.network, config.ppo, config.rnd
    policy = _forward_flops(make_policy(spaces, network), spaces.stack, *spaces.observation)
    acting, learning = policy, policy * (1 + 3 * ppo.epochs)
    if rnd.enabled:
        target = _forward_flops(make_target(spaces, network), *spaces.observation)
        predictor = _forward_flops(make_predictor(spaces, network), *spaces.observation)
        seen = 1 - (1 - config.predictor_share) ** ppo.epochs  # share of samples used in at least one epoch
        acting += target + predictor
        learning += target * seen + predictor * 3 * ppo.epochs * config.predictor_share
    return acting, learning


def limit(config: Config) -> dict[str, float]:
    """An upper bound of the steps per second that this machine can train, from those of its parts."""
    bare = Emulator(config)
    ceiling, emulator = matrix_ceiling(), bare.measure_rate()
    bare.close()
    work = sum(flops(config, envs.spaces(config.env)))
    return {
        "emulator_steps_per_second_core": round(emulator),
        "matrix_ceiling_gflops": round(ceiling / 1e9),
        "mflop_per_step": round(work / 1e6),
        "limit_steps_per_second": round(1 / (1 / (emulator * CORES) + work / ceiling), 1),
    }
