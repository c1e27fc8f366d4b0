"""Functions that other threads run in the network thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from common.protocol.sockets import Waker

T = TypeVar("T")
_CALL_SECONDS = 30.0  # after which the network thread counts as stuck


class CallQueue:
    """Runs functions in the network thread and returns their results to the threads that called."""

    def __init__(self) -> None:
        self.waker = Waker()  # the network thread waits on it
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()  # no call enters the queue after `end` has emptied it
        self._ended: Exception | None = None

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` in the network thread and return its result; any other thread may call.

        Raises:
            TimeoutError: the network thread did not run it within 30 s.
            Exception: what `function` raised, or, once the network thread has ended, the reason.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._ended is not None:
                raise self._ended
            self._calls.put((function, future))
            self.waker.wake()
        return future.result(_CALL_SECONDS)

    @property
    def pending(self) -> bool:
        """Whether a function waits to be run."""
        return not self._calls.empty()

    def run_pending(self) -> None:
        """Run every function that waits; called by the network thread."""
        self.waker.clear()
        while self.pending:
            function, future = self._calls.get()
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001  # it belongs to the thread that called
                future.set_exception(error)

    def end(self, error: Exception) -> None:
        """Raise `error` from every call that waits and from every later one."""
        with self._lock:
            self._ended = error
        while self.pending:
            _, future = self._calls.get()
            future.set_exception(error)
