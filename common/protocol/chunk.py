"""The trajectory chunk: T steps of B lanes as arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.config import RolloutConfig
from common.spaces import Spaces

CHUNK_BYTES = 1 << 28  # the largest chunk before its compression, for which an actor needs four copies
WARMUP_VERSION = -1  # of chunks with random actions, before the first policy

# The largest magnitude of observations, log-probabilities, rewards and bonuses. The square of a discounted
# sum of such numbers stays below 1e20, and the largest float32 is 3e38. Honest numbers are smaller: the score
# of a game has six digits, whitened inputs keep a bonus below 1e4, and a sampled action has at least the
# smallest positive float32, e^-104, or as a density e^-16 over its standard deviation for each component.
VALUE_LIMIT = 1e6
_LIMITED = ("observation", "final_observation", "log_prob", "reward", "bonus")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunk:
    """T steps of B lanes with the weights of one bundle; time first.

    `observation` holds every observation once: rows 0 to S-2 are the history that completes the first
    stack, row S-1+t is the newest observation of s_t, and the last row is s_T. The row after the end of an
    episode is the first observation of the next episode.
    """

    observation: npt.NDArray[np.generic]  # uint8 [S-1+T+1, B, 84, 84] or float32 [T+1, B, D]
    final_observation: npt.NDArray[np.generic]  # [K, ...]: the last one before each of K truncations
    action: npt.NDArray[np.generic]  # int32 [T, B], or float32 [T, B, A], sampled; the environment clips it
    log_prob: npt.NDArray[np.float32]  # [T, B], nats, under the acting policy
    reward: npt.NDArray[np.float32]  # [T, B], raw
    bonus: npt.NDArray[np.float32]  # [T, B], prediction error of the next observation, unscaled
    terminated: npt.NDArray[np.bool_]  # [T, B], the episode reached a terminal state
    truncated: npt.NDArray[np.bool_]  # [T, B], a time limit ended the episode
    life_lost: npt.NDArray[np.bool_]  # [T, B], the game lost a life
    room: npt.NDArray[np.uint8]  # [T, B], 1 + the number of the room after the step; 0 if the game tells none

    @property
    def done(self) -> npt.NDArray[np.bool_]:
        """bool [T, B]: the next row belongs to the next episode."""
        return self.terminated | self.truncated


def is_within_limit(array: npt.NDArray[Any]) -> bool:
    """Return whether every number is finite and within `VALUE_LIMIT`; images always are."""
    return array.dtype.kind != "f" or bool((np.abs(array) <= VALUE_LIMIT).all())


def value_error(chunk: Chunk, spaces: Spaces) -> str | None:
    """Return why the values of a chunk cannot be those of an honest actor, or None."""
    for name in _LIMITED:
        if not is_within_limit(getattr(chunk, name)):
            return f"expected finite numbers within {VALUE_LIMIT:g} in {name}"
    if not np.isfinite(chunk.action).all():
        return "expected finite actions"
    if not spaces.is_continuous:
        if (chunk.action < 0).any() or (chunk.action >= spaces.actions).any():  # type: ignore[operator]
            return f"expected actions in [0, {spaces.actions})"
        if (chunk.log_prob > 1e-3).any():
            return "expected log-probabilities of at most 0"
    if (chunk.bonus < 0).any():
        return "expected bonuses of at least 0"
    truncations = len(chunk.final_observation)
    if (chunk.terminated & chunk.truncated).any() or int(chunk.truncated.sum()) != truncations:
        return f"expected one final observation per truncation, got {truncations}"
    return None


ArraySpec = tuple[str, tuple[int, ...]]  # dtype, shape


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
        "life_lost": ("|b1", grid),
        "room": ("|u1", grid),
    }


def largest_raw_bytes(rollout: RolloutConfig, spaces: Spaces) -> int:
    """The uncompressed size of the largest chunk of a run."""
    truncations = rollout.lanes if spaces.is_image else rollout.chunk_steps
    return raw_bytes(layout(rollout, spaces, truncations))


def size_error(rollout: RolloutConfig, spaces: Spaces) -> str | None:
    """Return why the chunks of a run are too large, or None."""
    size = largest_raw_bytes(rollout, spaces)
    if size <= CHUNK_BYTES:
        return None
    return (
        f"expected chunks of at most {CHUNK_BYTES >> 20} MiB, got {size >> 20} MiB: lower rollout.steps or "
        "rollout.lanes"
    )


def raw_bytes(specs: Mapping[str, ArraySpec]) -> int:
    """The uncompressed size of these arrays."""
    return sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in specs.values())
