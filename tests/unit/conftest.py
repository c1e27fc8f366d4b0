"""A fixture that makes chunks, for all unit tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest

from common.protocol.chunk import Chunk
from common.spaces import Spaces

ChunkMaker = Callable[..., Chunk]


@pytest.fixture(scope="session")
def make_chunk() -> ChunkMaker:
    """A function that makes a chunk of noise with ends at given (t, lane)."""

    def make(
        steps: int,
        lanes: int,
        spaces: Spaces,
        seed: int,
        terminated: Iterable[tuple[int, int]] = (),
        truncated: Iterable[tuple[int, int]] = (),
    ) -> Chunk:
        rng = np.random.default_rng(seed)

        def observations(*shape: int) -> np.ndarray:
            full = (*shape, *spaces.observation)
            if spaces.is_image:
                return rng.integers(0, 256, full, np.uint8)
            return rng.normal(size=full).astype(np.float32)

        flags = np.zeros((2, steps, lanes), np.bool_)
        for kind, ends in enumerate((terminated, truncated)):
            for end in ends:
                flags[kind][end] = True
        grid = (steps, lanes)
        if spaces.is_continuous:
            action = rng.normal(size=(*grid, *spaces.action)).astype(np.float32)
        else:
            action = rng.integers(0, spaces.actions, grid, np.int32)
        return Chunk(
            observation=observations(spaces.stack + steps, lanes),
            final_observation=observations(int(flags[1].sum())),
            action=action,
            log_prob=-rng.random(grid, np.float32),
            reward=rng.normal(size=grid).astype(np.float32),
            terminated=flags[0],
            truncated=flags[1],
            life_lost=np.zeros(grid, np.bool_),
            room=np.zeros(grid, np.uint8),
            bonus=rng.random(grid, np.float32),
        )

    return make
