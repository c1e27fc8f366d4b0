"""A learner's data path without training: sockets, admission, ledger, decoding, settling, credit."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import Self

from common import envs
from common.config import Config
from common.model.precision import configure_torch
from common.protocol.sockets import weights_endpoint
from learner.interface import DecodedChunk
from learner.server.ledger import Totals
from learner.server.server import Server

_POLL_SECONDS = 0.25


class Intake:
    """Takes decoded batches as a trainer does, holds each until it is whole, and settles it as trained.

    With a rate it waits before it hands out credit, so that no more chunks come in a second. Before it
    settles the first batch it waits for all that are open: from then on it never holds more than it did.
    """

    def __init__(self, config: Config, endpoint: str, chunks_per_second: float | None = None) -> None:
        configure_torch()
        self._config = config
        self._pause_seconds = config.rollout.batch_chunks / chunks_per_second if chunks_per_second else 0.0
        self.server = Server(config, envs.spaces(config.env), 1, None, None)
        self.chunks = 0  # settled
        self._stop = threading.Event()
        self._consumer = threading.Thread(target=self._consume, name="consumer")
        self.server.start([(endpoint, weights_endpoint(endpoint))])

    def __enter__(self) -> Self:
        self._consumer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._consumer.join()
        self.server.close()

    def wait_for(self, sessions: int, timeout_seconds: float) -> None:
        """Wait until so many sessions are connected."""
        deadline = time.monotonic() + timeout_seconds
        while (joined := self.server.session_count()) < sessions:
            if time.monotonic() > deadline:
                raise TimeoutError(f"expected {sessions} sessions, got {joined} in {timeout_seconds:.0f} s")
            time.sleep(0.1)

    def open(self) -> None:
        """Hand out credit for the first batch."""
        self.server.open_batch(0)

    def close_books(self) -> Totals:
        """After everybody left: settle what waits, and add up."""
        self._stop.set()
        self._consumer.join()
        self.server.drain(finished=True)
        self.server.close_remaining()
        return self.server.refresh_status().totals

    def _consume(self) -> None:
        waiting: defaultdict[int, list[DecodedChunk]] = defaultdict(list)
        version, due = 0, time.monotonic()
        while not self._stop.is_set():
            delivered = self.server.take(_POLL_SECONDS)
            if delivered is None:
                continue
            waiting[delivered.batch].append(delivered)
            whole = range(self._config.max_lag + 1) if version == 0 else [version]
            if all(len(waiting[batch]) == self._config.rollout.batch_chunks for batch in whole):
                chunks = waiting.pop(version)
                version += 1
                due = max(due + self._pause_seconds, time.monotonic() - self._pause_seconds)
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return
                self._turn_over(chunks, version)

    def _turn_over(self, chunks: list[DecodedChunk], version: int) -> None:
        self.server.settle(chunks, "trained")
        self.server.open_batch(version)
        self.chunks += len(chunks)
