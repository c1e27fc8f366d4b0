"""From admitted bytes to arrays: one decode thread between the network and the trainer."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable

from common.config import RolloutConfig
from common.protocol import codec
from common.spaces import Spaces
from learner.interface import DecodedChunk
from learner.server.scheduler import AdmittedChunk

_WAIT_SECONDS = 0.25


class ChunkDecoder:
    """Bounded by credit: never more chunks than places were offered. Closed by its owner.

    What waits stays compressed, oldest batch first, while two batches are decoded already.
    """

    def __init__(
        self, rollout: RolloutConfig, spaces: Spaces, refuse: Callable[[AdmittedChunk, str], None]
    ) -> None:
        self._rollout, self._spaces, self._refuse = rollout, spaces, refuse
        self._compressed: queue.PriorityQueue[tuple[int, int, AdmittedChunk]] = queue.PriorityQueue()
        self._decoded: queue.Queue[DecodedChunk] = queue.Queue(2 * rollout.batch_chunks)
        self._submitted = 0
        self.decode_seconds = 0.0
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self.last_loop_at = time.monotonic()  # for the watchdog
        self._thread = threading.Thread(target=self._run, name="decode")

    def start(self) -> None:
        """Start the thread."""
        self.last_loop_at = time.monotonic()
        self._thread.start()

    def submit(self, arrival: AdmittedChunk) -> None:
        """Called by the network thread."""
        self._submitted += 1
        self._compressed.put((arrival.batch, self._submitted, arrival))

    @property
    def waiting_chunks(self) -> int:
        """Chunks that arrived and were not taken yet."""
        return self._compressed.qsize() + self._decoded.qsize()

    def take(self, timeout_seconds: float) -> DecodedChunk | None:
        """The next decoded chunk, or None after the timeout. Called by the trainer."""
        if self._error is not None:
            raise self._error
        try:
            return self._decoded.get(timeout=timeout_seconds)
        except queue.Empty:
            return None

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self.last_loop_at = time.monotonic()
                with contextlib.suppress(queue.Empty):
                    *_, arrival = self._compressed.get(timeout=_WAIT_SECONDS)
                    self._decode(arrival)
        except BaseException as error:  # noqa: BLE001  # the trainer raises it
            self._error = error

    def _decode(self, arrival: AdmittedChunk) -> None:
        message = arrival.message
        start = time.perf_counter()
        try:
            chunk = codec.unpack(message, self._rollout, self._spaces)
        except codec.WireError as error:
            self._refuse(arrival, str(error))
            return
        self.decode_seconds += time.perf_counter() - start
        delivered = DecodedChunk(
            message.sid,
            arrival.batch,
            arrival.slot,
            arrival.incarnation,
            message.offset,
            message.version,
            message.fresh,
            chunk,
        )
        while not self._closing.is_set():
            self.last_loop_at = time.monotonic()
            with contextlib.suppress(queue.Full):
                self._decoded.put(delivered, timeout=_WAIT_SECONDS)
                return

    def close(self) -> None:
        """Stop the thread."""
        self._closing.set()
        self._thread.join()
