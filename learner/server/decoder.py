"""From admitted bytes to arrays: one decode thread between the network and the trainer."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from common.config import RolloutConfig
from common.protocol import codec
from common.protocol.chunk import Chunk
from common.spaces import Spaces
from learner.server.scheduler import Arrival

_WAIT_SECONDS = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class Delivered:
    """A decoded chunk and where it came from."""

    sid: bytes
    batch: int
    slot: int
    incarnation: int
    offset: int
    version: int
    fresh: bool  # every lane was reset right before its first step
    chunk: Chunk

    @property
    def order(self) -> tuple[int, int, int]:
        """The place in a batch: by slot, incarnation and offset, never by arrival."""
        return self.slot, self.incarnation, self.offset


class Inbox:
    """Bounded by credit: never more chunks than places were offered. Closed by its owner.

    What waits stays compressed, oldest batch first, while two batches are decoded already.
    """

    def __init__(
        self, rollout: RolloutConfig, spaces: Spaces, refuse: Callable[[Arrival, str], None]
    ) -> None:
        self._rollout, self._spaces, self._refuse = rollout, spaces, refuse
        self._compressed: queue.PriorityQueue[tuple[int, int, Arrival]] = queue.PriorityQueue()
        self._decoded: queue.Queue[Delivered] = queue.Queue(2 * rollout.batch_chunks)
        self._submitted = 0
        self.decode_seconds = 0.0
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self.turned_at = time.monotonic()  # for the watchdog
        self._thread = threading.Thread(target=self._run, name="decode")
        self._thread.start()

    def submit(self, arrival: Arrival) -> None:
        """Called by the network thread."""
        self._submitted += 1
        self._compressed.put((arrival.batch, self._submitted, arrival))

    @property
    def waiting_chunks(self) -> int:
        """Chunks that arrived and were not taken yet."""
        return self._compressed.qsize() + self._decoded.qsize()

    def take(self, timeout_seconds: float) -> Delivered | None:
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
                self.turned_at = time.monotonic()
                with contextlib.suppress(queue.Empty):
                    *_, arrival = self._compressed.get(timeout=_WAIT_SECONDS)
                    self._decode(arrival)
        except BaseException as error:  # noqa: BLE001  # the trainer raises it
            self._error = error

    def _decode(self, arrival: Arrival) -> None:
        message = arrival.message
        start = time.perf_counter()
        try:
            chunk = codec.unpack(message, self._rollout, self._spaces)
        except codec.WireError as error:
            self._refuse(arrival, str(error))
            return
        self.decode_seconds += time.perf_counter() - start
        delivered = Delivered(
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
            self.turned_at = time.monotonic()
            with contextlib.suppress(queue.Full):
                self._decoded.put(delivered, timeout=_WAIT_SECONDS)
                return

    def close(self) -> None:
        """Stop the thread."""
        self._closing.set()
        self._thread.join()
