"""Gathers the chunks of one batch from the server."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable

from common.phase_timer import PhaseTimer
from learner.interface import DecodedChunk, TrainerServer

_POLL_SECONDS = 0.5


class BatchGatherer:
    """Waits for chunks; keeps those that arrive early for the batches that they belong to."""

    def __init__(
        self,
        server: TrainerServer,
        batch_chunks: int,
        timer: PhaseTimer,
        stop: threading.Event,
        on_wait: Callable[[], None],
    ) -> None:
        self._server, self._batch_chunks, self._timer = server, batch_chunks, timer
        self._stop, self._on_wait = stop, on_wait
        self._early: defaultdict[int, list[DecodedChunk]] = defaultdict(list)  # by batch
        self.last_loop_at = time.monotonic()  # for the watchdog

    def next_chunk(self) -> DecodedChunk | None:
        """Wait for a chunk of any batch; None if asked to stop."""
        while not self._stop.is_set():
            self.last_loop_at = time.monotonic()
            with self._timer.measure("wait"):
                decoded = self._server.take(_POLL_SECONDS)
            if decoded is not None:
                return decoded
            self._on_wait()
        return None

    def put_back(self, chunks: list[DecodedChunk]) -> None:
        """Keep gathered chunks for the next `gather` of their batch."""
        for decoded in chunks:
            self._early[decoded.batch].append(decoded)

    def gather(self, version: int) -> list[DecodedChunk] | None:
        """Wait for all chunks of the batch of `version`, and return them in batch order.

        Returns:
            The chunks by slot, incarnation and offset; None if asked to stop.
        """
        while len(self._early[version]) < self._batch_chunks:
            decoded = self.next_chunk()
            if decoded is None:
                return None
            self._early[decoded.batch].append(decoded)
        return sorted(self._early.pop(version), key=lambda decoded: decoded.order)
