"""Keeps batches whose update had a figure that is not finite, and counts them."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import structlog

from common.process.lifecycle import EXIT_INTERNAL, Fatal
from common.protocol.chunk import Chunk

log = structlog.get_logger()

_MAX_IN_A_ROW = 3
_KEPT_FILES = 10  # so that a peer that sends faulty chunks does not fill the disk


class FailedBatches:
    """The failed batches of this process. Three in a row without a chunk to blame end the run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory  # made when the first batch fails
        self._in_a_row = 0
        self.total = 0

    def clear(self) -> None:
        """Reset the number of unexplained failures in a row, after an update that succeeded."""
        self._in_a_row = 0

    def keep(self, joined: Chunk, version: int) -> None:
        """Count and log a failed batch, and write the first ten to disk. A full disk does not end the run."""
        self.total += 1
        path = self._directory / f"{version:09d}-{self.total}.npz" if self.total <= _KEPT_FILES else None
        log.error("update_failed", version=version, batch=str(path), next="examining each chunk alone")
        if path is None:
            return
        with contextlib.suppress(OSError):
            self._directory.mkdir(exist_ok=True)
            np.savez_compressed(path, **{x.name: getattr(joined, x.name) for x in dataclasses.fields(joined)})

    def count_unexplained(self) -> None:
        """Count a failure for which no chunk is to blame.

        Raises:
            Fatal: it is the third in a row.
        """
        self._in_a_row += 1
        log.error("no_chunk_to_blame", failures_in_a_row=self._in_a_row, next="collecting another batch")
        if self._in_a_row >= _MAX_IN_A_ROW:
            raise Fatal(
                EXIT_INTERNAL,
                f"expected finite losses, got NaN or infinity from {_MAX_IN_A_ROW} batches in a row: lower "
                f"--ppo.learning-rate, or inspect {self._directory}; the last checkpoint is older",
            )
