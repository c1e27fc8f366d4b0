"""A learner's data path without training: sockets, admission, ledger, decoder and credit."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import Self

from common import envs
from common.config import Config
from common.model.precision import configure_torch
from common.protocol import codec
from common.protocol.sockets import weights_endpoint
from learner.interface import DecodedChunk
from learner.server.admission import Admission
from learner.server.decoder import ChunkDecoder
from learner.server.ledger import Totals
from learner.server.network import Network
from learner.server.publisher import Publisher
from learner.server.scheduler import AdmittedChunk
from tests.support.processes import wait_until

_POLL_SECONDS = 0.25


class Intake:
    """Takes decoded chunks as a trainer does, and settles each complete batch as trained.

    With `chunks_per_second` it delays credit to limit the rate. Before it settles the first batch it waits
    for all open batches, so that later it never holds more chunks than then.
    """

    def __init__(self, config: Config, endpoint: str, chunks_per_second: float | None = None) -> None:
        configure_torch()
        self._config = config
        self._pause_seconds = config.rollout.batch_chunks / chunks_per_second if chunks_per_second else 0.0
        spaces = envs.spaces(config.env)
        self.admission = Admission(config, 1, bytes(32))
        self.publisher = Publisher(None)
        self.network = Network(
            self.admission, self.publisher, codec.message_limit_bytes(config.rollout, spaces)
        )
        self._decoder = ChunkDecoder(config.rollout, spaces, self._refuse)
        self.chunks = 0  # settled
        self.invalid = 0
        self._stop = threading.Event()
        self._consumer = threading.Thread(target=self._consume, name="consumer")
        self.network.start([(endpoint, weights_endpoint(endpoint))], self._decoder.submit)
        self._decoder.start()

    def __enter__(self) -> Self:
        self._consumer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._consumer.join()
        self._decoder.close()
        self.network.close()

    def wait_for(self, sessions: int, timeout_seconds: float) -> None:
        """Wait until so many sessions have joined."""
        wait_until(
            lambda: self.network.ask(lambda: len(self.admission.registry.sessions)) >= sessions,
            f"{sessions} sessions",
            timeout_seconds,
        )

    def open(self) -> None:
        """Give credit for the first batch."""
        self.network.ask(lambda: self.admission.registry.open(0, time.monotonic()))

    def close_ledger(self) -> Totals:
        """Settle the remaining chunks after every session has ended; returns the totals."""
        self._stop.set()
        self._consumer.join()
        self.network.ask(lambda: self.network.enqueue(self.admission.registry.drain(True)))
        self.network.ask(self.admission.registry.close_remaining)
        return self.network.ask(self.network.look).totals

    def _consume(self) -> None:
        waiting: defaultdict[int, list[DecodedChunk]] = defaultdict(list)
        version, due = 0, time.monotonic()
        while not self._stop.is_set():
            chunk = self._decoder.take(_POLL_SECONDS)
            if chunk is None:
                continue
            waiting[chunk.batch].append(chunk)
            complete = range(self._config.max_lag + 1) if version == 0 else [version]
            if all(len(waiting[batch]) == self._config.rollout.batch_chunks for batch in complete):
                names = [(chunk.sid, chunk.offset) for chunk in waiting.pop(version)]
                version += 1
                due = max(due + self._pause_seconds, time.monotonic() - self._pause_seconds)
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return
                self._settle(names, version)

    def _settle(self, names: list[tuple[bytes, int]], version: int) -> None:
        self.network.ask(lambda: self.admission.registry.settle(names, "trained"))
        self.network.ask(lambda: self.admission.registry.open(version, time.monotonic()))
        self.chunks += len(names)

    def _refuse(self, chunk: AdmittedChunk, text: str) -> None:
        self.invalid += 1
        sid, offset = chunk.message.sid, chunk.message.offset
        self.network.ask(
            lambda: self.admission.registry.reject_chunk(sid, offset, chunk.batch, time.monotonic())
        )
