"""A thread of the learner that does not turn any more is noticed, said, and in the end not waited for.

Each thread shows when it turned last; the watchdog looks at it. A process that hangs is worth less
than one that ends: its supervisor starts it anew, and `--resume` loses nothing that was saved.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from common.lifecycle import EXIT_INTERNAL

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds of silence after which a thread is spoken of, and after which the process ends."""

    say_seconds: float
    end_seconds: float


PATIENCE = {
    "network": Patience(30.0, 120.0),
    "decode": Patience(30.0, 120.0),
    "supervisor": Patience(30.0, 120.0),
    "trainer": Patience(300.0, 1_800.0),  # one update of a large batch on a slow processor takes minutes
}
_TICK_SECONDS = 1.0


class Watchdog:
    """Reads `turned`, the time.monotonic() of each thread's last turn."""

    def __init__(
        self,
        turned: Callable[[], Mapping[str, float]],
        patience: Mapping[str, Patience] = PATIENCE,
        tick_seconds: float = _TICK_SECONDS,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._turned, self._patience, self._tick_seconds, self._end = turned, patience, tick_seconds, end
        self._said: set[str] = set()
        self.silence_seconds: dict[str, float] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog")
        self._thread.start()

    def _run(self) -> None:
        looked = awake = time.monotonic()
        while not self._closing.wait(self._tick_seconds):
            now = time.monotonic()
            if now - looked > 5 * self._tick_seconds:  # the whole process was stopped: nobody was stuck
                awake = now
            looked = now
            self.silence_seconds = {name: now - max(turned, awake) for name, turned in self._turned().items()}
            for name, silence in self.silence_seconds.items():
                self._judge(name, silence)

    def _judge(self, name: str, silence: float) -> None:
        patience = self._patience[name]
        if silence < patience.say_seconds:
            self._said.discard(name)
            return
        ending = silence >= patience.end_seconds
        if name not in self._said or ending:
            self._said.add(name)
            what = "ending the process: start it again with --resume" if ending else "waiting on"
            log.error("thread_stuck", thread=name, seconds=round(silence, 1), next=what)
            faulthandler.dump_traceback(2, all_threads=True)
        if ending:
            self._end(EXIT_INTERNAL)

    def close(self) -> None:
        """Stop looking."""
        self._closing.set()
        self._thread.join()
