"""Calls from other threads into the network thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from learner.server.calls import CallQueue
from tests.support.processes import PATIENCE_SECONDS


class Caller:
    """A call queue whose calls come from threads of their own; the test's thread is the network thread."""

    def __init__(self) -> None:
        self.calls = CallQueue()
        self._threads: list[threading.Thread] = []

    def call(self, function: Callable[[], object]) -> Future[object]:
        """Call in a thread; the future holds what that thread got."""
        future: Future[object] = Future()

        def calling() -> None:
            try:
                future.set_result(self.calls.call(function))
            except Exception as error:  # noqa: BLE001  # the test looks at it
                future.set_exception(error)

        self._threads.append(threading.Thread(target=calling))
        self._threads[-1].start()
        return future

    def run_until(self, future: Future[object]) -> None:
        """Run pending calls until one is answered."""
        while not future.done():
            self.calls.run_pending()

    def close(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
        self.calls.waker.close()


@pytest.fixture
def caller() -> Iterator[Caller]:
    caller = Caller()
    yield caller
    caller.close()


def test_a_call_runs_in_the_network_thread_and_returns_its_result(caller: Caller) -> None:
    future = caller.call(threading.get_ident)
    caller.run_until(future)
    assert future.result() == threading.get_ident()


def test_an_error_is_raised_in_the_thread_that_called(caller: Caller) -> None:
    """The network thread serves the next call."""

    def fail() -> None:
        raise ValueError("expected a mistake")

    failed = caller.call(fail)
    caller.run_until(failed)
    assert isinstance(failed.exception(), ValueError)
    answered = caller.call(lambda: 3)
    caller.run_until(answered)
    assert answered.result() == 3


def test_every_call_raises_the_reason_once_the_network_thread_has_ended(caller: Caller) -> None:
    """The ones that wait, and the later ones: nobody waits for an answer that never comes."""
    ended, waiting = RuntimeError("it has ended"), caller.call(lambda: 3)
    while not caller.calls.pending:
        pass
    caller.calls.end(ended)
    assert waiting.exception(PATIENCE_SECONDS) is ended
    assert caller.call(lambda: 3).exception(PATIENCE_SECONDS) is ended
