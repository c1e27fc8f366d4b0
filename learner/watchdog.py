"""A thread that stops turning is named in the log, and in the end the process is not kept alive for it.

Each thread shows when it turned last; the watchdog looks at it. A process that hangs is worth less
than one that ends: its supervisor starts it again, and `--resume` loses nothing that was saved.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from common.process.lifecycle import EXIT_INTERNAL

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StallLimits:
    """Seconds of silence after which a thread is spoken of, and after which the process ends."""

    say_seconds: float
    end_seconds: float


PATIENCE = {
    "network": StallLimits(30.0, 120.0),
    "decoder": StallLimits(30.0, 120.0),
    "supervisor": StallLimits(30.0, 120.0),
    "trainer": StallLimits(300.0, 1_800.0),  # one update of a large batch on a slow processor takes minutes
}
_TICK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Stall:
    """A thread that has been silent for too long; `ends` if the process should end."""

    thread: str
    seconds: float
    ends: bool


class StallDetector:
    """Decides which threads are silent for too long. Pure: time comes in as `now`."""

    def __init__(self, patience: Mapping[str, StallLimits], tick_seconds: float, now: float) -> None:
        self._patience, self._tick_seconds = patience, tick_seconds
        self._looked = self._awake = now
        self._reported: set[str] = set()
        self.silence_seconds: dict[str, float] = {}

    def look(self, turned: Mapping[str, float], now: float) -> list[Stall]:
        """Return the threads whose silence is to be reported: once each, and again when it ends the process.

        Args:
            turned: time of each thread's last turn.
            now: time of this look.
        """
        if now - self._looked > 5 * self._tick_seconds:  # the whole process was stopped: no thread was stuck
            self._awake = now
        self._looked = now
        self.silence_seconds = {name: now - max(at, self._awake) for name, at in turned.items()}
        stalls = (self._judge(name, seconds) for name, seconds in self.silence_seconds.items())
        return [stall for stall in stalls if stall is not None]

    def _judge(self, name: str, seconds: float) -> Stall | None:
        patience = self._patience[name]
        if seconds < patience.say_seconds:
            self._reported.discard(name)
            return None
        ends = seconds >= patience.end_seconds
        if name in self._reported and not ends:
            return None
        self._reported.add(name)
        return Stall(name, seconds, ends)


class Watchdog:
    """Reads `turned`, the time.monotonic() of each thread's last turn."""

    def __init__(
        self,
        turned: Callable[[], Mapping[str, float]],
        patience: Mapping[str, StallLimits] = PATIENCE,
        tick_seconds: float = _TICK_SECONDS,
    ) -> None:
        self._turned, self._tick_seconds = turned, tick_seconds
        self._detector = StallDetector(patience, tick_seconds, time.monotonic())
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog")
        self._thread.start()

    @property
    def silence_seconds(self) -> dict[str, float]:
        """Seconds since the last turn of each thread, as of the last tick."""
        return self._detector.silence_seconds

    def _run(self) -> None:
        while not self._closing.wait(self._tick_seconds):
            for stall in self._detector.look(self._turned(), time.monotonic()):
                _report(stall)

    def close(self) -> None:
        """Stop looking."""
        self._closing.set()
        self._thread.join()


def _report(stall: Stall) -> None:
    """Log a stall with the stack of every thread; end the process if it lasts too long."""
    what = "ending the process: start it again with --resume" if stall.ends else "waiting on"
    log.error("thread_stuck", thread=stall.thread, seconds=round(stall.seconds, 1), next=what)
    faulthandler.dump_traceback(2, all_threads=True)
    if stall.ends:
        os._exit(EXIT_INTERNAL)
