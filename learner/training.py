"""How far training is, and where its time goes: what the trainer shows to other threads."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from common.chunk import WARMUP_VERSION
from learner.ppo import Report

PHASES = ("wait", "assemble", "train", "publish", "checkpoint")


@dataclass(slots=True)
class Progress:
    """Written by the trainer alone: fields are replaced, their values never mutated."""

    version: int = WARMUP_VERSION
    warmup_chunks: int = 0
    report: Report | None = None
    bonus_scale: float = 1.0  # what a raw bonus is divided by
    observations: float = 0.0  # in the observation statistics
    lag_max: int = 0
    lags: Counter[int] = field(default_factory=Counter)  # chunks trained by this process, by lag
    failed_updates: int = 0
    checkpoint_failures: int = 0
    checkpoint_at: float | None = None
    last_update_at: float | None = None
    turned_at: float = field(default_factory=time.monotonic)  # for the watchdog
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
