"""Decides when a checkpoint is due, writes it and deletes old ones. A failed write never ends a run."""

from __future__ import annotations

import time
from pathlib import Path

import structlog

from common.durations import Durations
from learner.training import checkpoint
from learner.training.checkpoint import Checkpoint
from learner.training.stored_checkpoints import delete_unneeded

log = structlog.get_logger()

_MAX_TIME_SHARE = 0.05  # target of the share of time; a write of over 3 s exceeds it
_MIN_SECONDS, _MAX_SECONDS = 5.0, 60.0  # bounds of the time between two checkpoints


class CheckpointWriter:
    """Writes the checkpoints of a run into one directory. Only the trainer's thread uses it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._due_at = 0.0
        self.failures = 0
        self.durations = Durations()  # of all writes
        self.saved_at: float | None = None  # time.time() of the last success

    @property
    def due(self) -> bool:
        """Whether it is time for another checkpoint."""
        return time.monotonic() >= self._due_at

    def save(self, saved: Checkpoint) -> None:
        """Write a checkpoint and delete old ones; log a failure. Slow writes make the next one due later."""
        start = time.monotonic()
        try:
            checkpoint.save(self._directory, max(0, saved.meta["version"]), saved)
            delete_unneeded(self._directory)
        except OSError as error:
            self.failures += 1
            log.error("checkpoint_failed", reason=str(error), next="trying again later")
        else:
            self.saved_at = time.time()
        now = time.monotonic()
        self.durations = self.durations.with_one(now - start)
        self._due_at = now + min(_MAX_SECONDS, max(_MIN_SECONDS, (now - start) / _MAX_TIME_SHARE))
