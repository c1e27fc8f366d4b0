"""Decodes admitted chunks in a thread of its own, between the network thread and the trainer."""

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
    """Decodes chunks, those of the oldest batch first. Credit bounds the number of chunks that wait.

    At most two batches of decoded chunks wait for the trainer. Other chunks stay compressed, which takes less
    memory.
    """

    def __init__(
        self, rollout: RolloutConfig, spaces: Spaces, refuse: Callable[[AdmittedChunk, str], None]
    ) -> None:
        """Create the thread. It calls `refuse` with each chunk that cannot be decoded, and the reason."""
        self._rollout, self._spaces, self._refuse = rollout, spaces, refuse
        self._compressed: queue.PriorityQueue[tuple[int, int, AdmittedChunk]] = queue.PriorityQueue()
        self._decoded: queue.Queue[DecodedChunk] = queue.Queue(2 * rollout.batch_chunks)
        self._submitted = 0  # chunks so far; keeps their order within a batch
        self.decode_seconds = 0.0
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self.last_loop_at = time.monotonic()  # for the watchdog
        self._thread = threading.Thread(target=self._run, name="decoder")

    def start(self) -> None:
        """Start the thread."""
        self.last_loop_at = time.monotonic()
        self._thread.start()

    def submit(self, chunk: AdmittedChunk) -> None:
        """Queue a chunk; called by the network thread."""
        self._submitted += 1
        self._compressed.put((chunk.batch, self._submitted, chunk))

    @property
    def waiting_chunks(self) -> int:
        """Chunks that were submitted and not taken yet."""
        return self._compressed.qsize() + self._decoded.qsize()

    def take(self, timeout_seconds: float) -> DecodedChunk | None:
        """Return the next decoded chunk, or None after the timeout; called by the trainer.

        Raises the error that ended the thread.
        """
        if self._error is not None:
            raise self._error
        try:
            return self._decoded.get(timeout=timeout_seconds)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Stop the thread."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self.last_loop_at = time.monotonic()
                with contextlib.suppress(queue.Empty):
                    *_, chunk = self._compressed.get(timeout=_WAIT_SECONDS)
                    self._decode(chunk)
        except BaseException as error:  # noqa: BLE001  # the trainer raises it
            self._error = error

    def _decode(self, admitted: AdmittedChunk) -> None:
        message = admitted.message
        start = time.perf_counter()
        try:
            chunk = codec.unpack(message, self._rollout, self._spaces)
        except codec.WireError as error:
            self._refuse(admitted, str(error))
            return
        self.decode_seconds += time.perf_counter() - start
        decoded = DecodedChunk(
            message.sid,
            admitted.batch,
            admitted.slot,
            admitted.incarnation,
            message.offset,
            message.version,
            message.fresh,
            chunk,
        )
        while not self._closing.is_set():
            self.last_loop_at = time.monotonic()
            with contextlib.suppress(queue.Full):
                self._decoded.put(decoded, timeout=_WAIT_SECONDS)
                return
