"""A task whose observations identify its steps, and which counts them independently of the ledger.

An observation holds the identity of the lane (two numbers) and the number of steps of the lane, so a chunk
shows which steps it has. The process keeps its count in the mapped file STEP_COUNT_DIR/PID, which remains
after a kill. The id of the environment is "tests.support.counted:Counted-v0".
"""

from __future__ import annotations

import mmap
import os
import random
import struct
import time
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete

STEP_SECONDS = 0.001  # sleep per step, so that many actors leave processor time to the learner
_EPISODE_STEPS = 50
_IDENTITIES = 1 << 19  # float32 represents them exactly, and the learner accepts numbers up to a million

Observation = npt.NDArray[np.float32]


@cache
def _counter() -> mmap.mmap:
    path = Path(os.environ["STEP_COUNT_DIR"]) / str(os.getpid())
    path.write_bytes(bytes(8))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 8)


class Counted(gymnasium.Env[Observation, int]):
    """Episodes of 50 steps; the reward is the action."""

    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space: gymnasium.Space[Any] = Discrete(2)

    def __init__(self) -> None:
        secret = random.SystemRandom()
        self._identity = (secret.randrange(_IDENTITIES), secret.randrange(_IDENTITIES))
        self._made = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self._left = _EPISODE_STEPS
        return self._observe(), {}

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        time.sleep(STEP_SECONDS)
        count = _counter()
        struct.pack_into("=Q", count, 0, struct.unpack_from("=Q", count)[0] + 1)
        self._made += 1
        self._left -= 1
        return self._observe(), float(action), self._left == 0, False, {}

    def _observe(self) -> Observation:
        return np.array([*self._identity, self._made], np.float32)


gymnasium.register("Counted-v0", f"{__name__}:Counted")
