"""Logs a thread that hangs, and ends the process if it hangs for long.

Each thread records the time of its last loop, and the watchdog reads it. Ending a process that hangs lets its
supervisor start it again, and `--resume` continues from the newest checkpoint.
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
    """Seconds since a thread's last loop after which it is logged, and after which the process ends."""

    log_seconds: float
    end_seconds: float


STALL_LIMITS = {
    "network": StallLimits(30.0, 120.0),
    "decoder": StallLimits(30.0, 120.0),
    "supervisor": StallLimits(30.0, 120.0),
    "trainer": StallLimits(300.0, 1_800.0),  # one update of a large batch on a slow processor takes minutes
}
_TICK_SECONDS = 1.0
_STOPPED_TICKS = 5.0  # a longer gap between two checks means that the whole process was stopped


@dataclass(frozen=True, slots=True)
class Stall:
    """A thread that has not looped for too long; `ends` if the process should end."""

    thread: str
    seconds: float
    ends: bool


class StallDetector:
    """Decides which threads hang. It performs no I/O; the caller passes the present time as `now`."""

    def __init__(self, limits: Mapping[str, StallLimits], tick_seconds: float, now: float) -> None:
        self._limits, self._tick_seconds = limits, tick_seconds
        self._checked_at = self._resumed_at = now
        self._reported: set[str] = set()
        self.silence_seconds: dict[str, float] = {}

    def check(self, loop_times: Mapping[str, float], now: float) -> list[Stall]:
        """Return the stalls to report: each one once, and a second time if it ends the process.

        Args:
            loop_times: time of each thread's last loop.
            now: time of this check.
        """
        if now - self._checked_at > _STOPPED_TICKS * self._tick_seconds:  # no thread could loop
            self._resumed_at = now
        self._checked_at = now
        self.silence_seconds = {name: now - max(at, self._resumed_at) for name, at in loop_times.items()}
        stalls = (self._stall_of(name, seconds) for name, seconds in self.silence_seconds.items())
        return [stall for stall in stalls if stall is not None]

    def _stall_of(self, name: str, seconds: float) -> Stall | None:
        limits = self._limits[name]
        if seconds < limits.log_seconds:
            self._reported.discard(name)
            return None
        ends = seconds >= limits.end_seconds
        if name in self._reported and not ends:
            return None
        self._reported.add(name)
        return Stall(name, seconds, ends)


class Watchdog:
    """Checks every second, in a thread of its own, when each thread last looped.

    Args:
        loop_times: returns the time.monotonic() of each thread's last loop.
        limits: those of each thread.
        tick_seconds: time between two checks.
    """

    def __init__(
        self,
        loop_times: Callable[[], Mapping[str, float]],
        limits: Mapping[str, StallLimits] = STALL_LIMITS,
        tick_seconds: float = _TICK_SECONDS,
    ) -> None:
        self._loop_times, self._tick_seconds = loop_times, tick_seconds
        self._detector = StallDetector(limits, tick_seconds, time.monotonic())
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog")
        self._thread.start()

    @property
    def silence_seconds(self) -> dict[str, float]:
        """Seconds since the last loop of each thread, at the last check."""
        return self._detector.silence_seconds

    def _run(self) -> None:
        while not self._closing.wait(self._tick_seconds):
            for stall in self._detector.check(self._loop_times(), time.monotonic()):
                _report(stall)

    def close(self) -> None:
        """Stop the thread."""
        self._closing.set()
        self._thread.join()


def _report(stall: Stall) -> None:
    """Log a stall with the stack of every thread; end the process if it lasts too long."""
    action = "ending the process: start it again with --resume" if stall.ends else "waiting"
    log.error("thread_stuck", thread=stall.thread, seconds=round(stall.seconds, 1), next=action)
    faulthandler.dump_traceback(2, all_threads=True)
    if stall.ends:
        os._exit(EXIT_INTERNAL)
