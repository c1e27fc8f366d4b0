"""The trainer's status, as other threads read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.durations import Durations
from common.protocol.chunk import WARMUP_VERSION
from common.spaces import Spaces
from learner.interface import DecodedChunk
from learner.training.ppo import UpdateReport

PHASES = ("wait", "assemble", "train", "core_wait", "publish", "checkpoint")


@dataclass(frozen=True, slots=True, eq=False)
class ChunkPreview:
    """The first lane of a chunk, for the page to show."""

    slot: int
    version: int  # of the acting policy
    images: npt.NDArray[np.generic] | None  # uint8 [T, 84, 84], after each step; None for vectors
    bonus: npt.NDArray[np.float32]  # [T]
    reward: npt.NDArray[np.float32]  # [T], raw
    done: npt.NDArray[np.bool_]  # [T]: the image is the first of the next episode

    @staticmethod
    def of(decoded: DecodedChunk, spaces: Spaces) -> ChunkPreview:
        """Copy the first lane, so that the rest of the chunk can be freed."""
        chunk = decoded.chunk
        images = chunk.observation[spaces.stack :, 0].copy() if spaces.is_image else None
        bonus, reward = chunk.bonus[:, 0].copy(), chunk.reward[:, 0].copy()
        return ChunkPreview(decoded.slot, decoded.version, images, bonus, reward, chunk.done[:, 0].copy())


@dataclass(frozen=True, slots=True)
class TrainerStatus:
    """How far training is and where its time goes. The trainer replaces it in one assignment."""

    version: int = WARMUP_VERSION
    warmup_chunks: int = 0
    report: UpdateReport | None = None  # of the last update
    preview: ChunkPreview | None = None  # of the last batch
    bonus_scale: float = 1.0  # the divisor of a raw bonus
    observations: float = 0.0  # weight of the observation statistics
    lag_max: int = 0
    lags: Counter[int] = field(default_factory=Counter)  # chunks trained by this process, by lag
    failed_updates: int = 0
    checkpoint_failures: int = 0
    checkpoint_at: float | None = None  # time.time() of the last checkpoint
    checkpoint_durations: Durations = field(default_factory=Durations)
    update_durations: Durations = field(default_factory=Durations)  # without the wait for chunks
    last_update_at: float | None = None  # time.monotonic()
    trained_here: int = 0  # steps trained by this process
    phase_seconds: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
