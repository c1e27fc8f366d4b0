"""Chunk and Bundle: the two values that cross the wire, as arrays, without a byte format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from common.config import RolloutConfig

IMAGE_SHAPE = (84, 84)
WARMUP_VERSION = -1  # chunks of random play, before there is a policy


@dataclass(frozen=True, slots=True)
class Spaces:
    """What a task shows and accepts.

    `observation` is the shape of one new observation: (84, 84) for images, (D,) for vectors.
    The policy sees the `stack` newest ones of the episode, zeros where there were none yet.
    `actions` is how many there are to choose from; where `bounds` are given, an action is a vector
    of that many numbers instead, each with its least and greatest useful value.
    """

    observation: tuple[int, ...]
    stack: int
    actions: int
    bounds: tuple[tuple[float, float], ...] = ()

    @property
    def is_image(self) -> bool:
        """Images are uint8; vectors are float32."""
        return len(self.observation) == 2

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of one observation element."""
        return np.dtype(np.uint8 if self.is_image else np.float32)

    @property
    def is_continuous(self) -> bool:
        """Actions are float32 vectors, else int32 numbers."""
        return bool(self.bounds)

    @property
    def action(self) -> tuple[int, ...]:
        """Shape of one action: () or (A,)."""
        return (self.actions,) if self.is_continuous else ()

    @property
    def action_dtype(self) -> np.dtype[np.generic]:
        """Type of one action element."""
        return np.dtype(np.float32 if self.is_continuous else np.int32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunk:
    """T steps of B lanes under one bundle; time first.

    `observation` holds every observation once: rows 0 to S-2 are the history that completes the
    first stack, row S-1+t is the newest observation of s_t, the last row is s_T. A row after an
    end is the observation of the new episode.
    """

    observation: npt.NDArray[np.generic]  # uint8 [S-1+T+1, B, 84, 84] or float32 [T+1, B, D]
    final_observation: npt.NDArray[np.generic]  # [K, ...]: last one before each of K truncations
    action: npt.NDArray[np.generic]  # int32 [T, B], or float32 [T, B, A], as drawn: the task clips it
    log_prob: npt.NDArray[np.float32]  # [T, B], nats, of the acting policy
    reward: npt.NDArray[np.float32]  # [T, B], game points, unclipped
    bonus: npt.NDArray[np.float32]  # [T, B], raw prediction error on the next observation
    terminated: npt.NDArray[np.bool_]  # [T, B], the episode ended in the task
    truncated: npt.NDArray[np.bool_]  # [T, B], a time limit cut it

    @property
    def done(self) -> npt.NDArray[np.bool_]:
        """bool [T, B]: the next row belongs to another episode."""
        return self.terminated | self.truncated


ArraySpec = tuple[str, tuple[int, ...]]  # dtype string, shape


def layout(rollout: RolloutConfig, spaces: Spaces, truncations: int) -> dict[str, ArraySpec]:
    """Name, dtype and shape of each array of a chunk with `truncations` final observations."""
    steps, lanes = rollout.steps, rollout.lanes
    element = spaces.dtype.str
    grid = (steps, lanes)
    return {
        "observation": (element, (spaces.stack + steps, lanes, *spaces.observation)),
        "final_observation": (element, (truncations, *spaces.observation)),
        "action": (spaces.action_dtype.str, (*grid, *spaces.action)),
        "log_prob": ("<f4", grid),
        "reward": ("<f4", grid),
        "bonus": ("<f4", grid),
        "terminated": ("|b1", grid),
        "truncated": ("|b1", grid),
    }


def raw_bytes(specs: Mapping[str, ArraySpec]) -> int:
    """Uncompressed size of arrays of these shapes."""
    return sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in specs.values())


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """What an actor plays a chunk with, all of one version.

    Tensors, float32: `policy.*`, `predictor.*` (with a bonus), and `mean`, `std` of the
    observations, in the shape of one observation.
    """

    epoch: int
    version: int
    tensors: dict[str, torch.Tensor]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors under `prefix.`, without it: a module's state."""
        head = prefix + "."
        return {name[len(head) :]: value for name, value in self.tensors.items() if name.startswith(head)}
