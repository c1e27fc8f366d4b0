"""A learner's data path without a trainer: sockets, admission, ledger, decoder and credit."""

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
from tests.support.processes import wait_until

_POLL_SECONDS = 0.25


class Intake:
    """Takes decoded chunks as a trainer does, and settles each complete batch as trained.

    With `chunks_per_second` it delays credit to limit the rate. It waits for all open batches before it
    settles the first one, so it holds the most chunks at that time.
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
        """Wait until `sessions` sessions have joined."""
        wait_until(lambda: self.server.session_count() >= sessions, f"{sessions} sessions", timeout_seconds)

    def open(self) -> None:
        """Give credit for the first batch."""
        self.server.open_batch(0)

    def close_ledger(self) -> Totals:
        """Settle the remaining chunks after every session has ended; return the totals."""
        self._stop.set()
        self._consumer.join()
        self.server.drain(finished=True)
        self.server.close_remaining()
        return self.server.refresh_status().totals

    def _consume(self) -> None:
        waiting: defaultdict[int, list[DecodedChunk]] = defaultdict(list)
        version, due = 0, time.monotonic()
        while not self._stop.is_set():
            chunk = self.server.take(_POLL_SECONDS)
            if chunk is None:
                continue
            waiting[chunk.batch].append(chunk)
            complete = range(self._config.max_lag + 1) if version == 0 else [version]
            if all(len(waiting[batch]) == self._config.rollout.batch_chunks for batch in complete):
                chunks = waiting.pop(version)
                version += 1
                due = max(due + self._pause_seconds, time.monotonic() - self._pause_seconds)
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return
                self._settle(chunks, version)

    def _settle(self, chunks: list[DecodedChunk], version: int) -> None:
        self.server.settle(chunks, "trained")
        self.server.open_batch(version)
        self.chunks += len(chunks)
