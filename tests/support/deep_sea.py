"""DeepSea: one of 2^N paths has a reward, and each of its steps has a small cost.

A diver sinks one row of an N x N grid per step and moves to the right or to the left. Only N moves to the
right reach the treasure in the last corner; an agent that does not explore learns to avoid their cost.
The environment's id names the module, for example "tests.support.deep_sea:DeepSea-20-v0".

Source: Osband et al. 2020, section 2 (deep sea), arXiv:1908.03568, deterministic form.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete

MOVE_COST = 0.01  # of N moves to the right
TREASURE = 1.0
OPTIMUM = TREASURE - MOVE_COST

Observation = npt.NDArray[np.float32]


class DeepSea(gymnasium.Env[Observation, int]):
    """Episodes of exactly N steps; the observation is one-hot for the diver's cell, and zero after the end.

    Args:
        size: N.
        map_seed: seed of `right`, int64 [N, N]: the action that moves to the right in each cell. It differs
            between cells, so that no constant policy succeeds; it is equal in every lane and process.
    """

    def __init__(self, size: int, map_seed: int = 0) -> None:
        self.size = size
        self.right = np.random.default_rng(map_seed).integers(2, size=(size, size))
        self.observation_space = Box(0.0, 1.0, (size * size,), np.float32)
        self.action_space: gymnasium.Space[Any] = Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start in the upper left corner, without randomness."""
        super().reset(seed=seed)
        self._row = self._column = 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Sink by one row."""
        last, reward = self.size - 1, 0.0
        if action == self.right[self._row, self._column]:
            reward = TREASURE * (self._column == last) - MOVE_COST / self.size
            self._column = min(self._column + 1, last)
        else:
            self._column = max(self._column - 1, 0)
        self._row += 1
        return self._observe(), reward, self._row == self.size, False, {}

    def _observe(self) -> Observation:
        cell = np.zeros((self.size, self.size), np.float32)
        if self._row < self.size:
            cell[self._row, self._column] = 1.0
        return cell.ravel()


for _size in (10, 20):
    gymnasium.register(f"DeepSea-{_size}-v0", f"{__name__}:DeepSea", kwargs={"size": _size})
