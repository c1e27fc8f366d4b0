"""How far training is, and where its time goes: what the trainer shows to other threads."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.protocol.chunk import WARMUP_VERSION
from common.spaces import Spaces
from learner.interface import DecodedChunk
from learner.training.ppo import UpdateReport

PHASES = ("wait", "assemble", "train", "publish", "checkpoint")


@dataclass(frozen=True, slots=True, eq=False)
class ChunkPreview:
    """What one lane met in the T steps of a chunk, to be looked at."""

    slot: int
    version: int  # that it acted under
    images: npt.NDArray[np.generic] | None  # uint8 [T, 84, 84], after each step; None if it saw no images
    bonus: npt.NDArray[np.float32]  # [T], of each of them
    reward: npt.NDArray[np.float32]  # [T], game points
    done: npt.NDArray[np.bool_]  # [T]: the image is the first of another episode

    @staticmethod
    def of(delivered: DecodedChunk, spaces: Spaces) -> ChunkPreview:
        """The first lane, copied: the chunk around it is larger, and goes."""
        chunk = delivered.chunk
        images = chunk.observation[spaces.stack :, 0].copy() if spaces.is_image else None
        bonus, reward = chunk.bonus[:, 0].copy(), chunk.reward[:, 0].copy()
        return ChunkPreview(delivered.slot, delivered.version, images, bonus, reward, chunk.done[:, 0].copy())


@dataclass(slots=True)
class TrainerStatus:
    """Written by the trainer alone: fields are replaced, their values never mutated."""

    version: int = WARMUP_VERSION
    warmup_chunks: int = 0
    report: UpdateReport | None = None
    scene: ChunkPreview | None = None  # of the last batch
    bonus_scale: float = 1.0  # what a raw bonus is divided by
    observations: float = 0.0  # in the observation statistics
    lag_max: int = 0
    lags: Counter[int] = field(default_factory=Counter)  # chunks trained by this process, by lag
    failed_updates: int = 0
    checkpoint_failures: int = 0
    checkpoint_at: float | None = None
    last_update_at: float | None = None
    last_loop_at: float = field(default_factory=time.monotonic)  # for the watchdog
    trained_here: int = 0  # steps trained by this process
    phase_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of a block to one of `PHASES`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = self.phase_seconds[name] + time.perf_counter() - start
            self.phase_seconds = self.phase_seconds | {name: spent}
