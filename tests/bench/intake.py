"""A learner's data path without training: sockets, admission, ledger, decoding, settling, credit."""

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
        spaces = envs.spaces(config.env)
        self.admission = Admission(config, 1, bytes(32))
        self.publisher = Publisher(None)
        self.network = Network(
            self.admission, self.publisher, codec.message_limit_bytes(config.rollout, spaces)
        )
        self._inbox = ChunkDecoder(config.rollout, spaces, self._refuse)
        self.chunks = 0  # settled
        self.invalid = 0
        self._stop = threading.Event()
        self._consumer = threading.Thread(target=self._consume, name="consumer")
        self.network.start([(endpoint, weights_endpoint(endpoint))], self._inbox.submit)
        self._inbox.start()

    def __enter__(self) -> Self:
        self._consumer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._consumer.join()
        self._inbox.close()
        self.network.close()

    def wait_for(self, sessions: int, timeout_seconds: float) -> None:
        """Until so many have a seat."""
        deadline = time.monotonic() + timeout_seconds
        while (seated := self.network.ask(lambda: len(self.admission.seats))) < sessions:
            if time.monotonic() > deadline:
                raise TimeoutError(f"expected {sessions} sessions, got {seated} in {timeout_seconds:.0f} s")
            time.sleep(0.1)

    def open(self) -> None:
        """Hand out credit for the first batch."""
        self.network.ask(lambda: self.admission.open(0, time.monotonic()))

    def close_books(self) -> Totals:
        """After everybody left: settle what waits, and add up."""
        self._stop.set()
        self._consumer.join()
        self.network.ask(lambda: self.admission.drain(True))
        self.network.ask(self.admission.close_remaining)
        return self.network.ask(self.network.look).totals

    def _consume(self) -> None:
        waiting: defaultdict[int, list[DecodedChunk]] = defaultdict(list)
        version, due = 0, time.monotonic()
        while not self._stop.is_set():
            delivered = self._inbox.take(_POLL_SECONDS)
            if delivered is None:
                continue
            waiting[delivered.batch].append(delivered)
            whole = range(self._config.max_lag + 1) if version == 0 else [version]
            if all(len(waiting[batch]) == self._config.rollout.batch_chunks for batch in whole):
                names = [(delivered.sid, delivered.offset) for delivered in waiting.pop(version)]
                version += 1
                due = max(due + self._pause_seconds, time.monotonic() - self._pause_seconds)
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return
                self._turn_over(names, version)

    def _turn_over(self, names: list[tuple[bytes, int]], version: int) -> None:
        self.network.ask(lambda: self.admission.settle(names, "trained"))
        self.network.ask(lambda: self.admission.open(version, time.monotonic()))
        self.chunks += len(names)

    def _refuse(self, arrival: AdmittedChunk, text: str) -> None:
        self.invalid += 1
        sid, offset = arrival.message.sid, arrival.message.offset
        self.network.ask(lambda: self.admission.refuse(sid, offset, arrival.batch, time.monotonic()))
