"""Prints the progress line: in place on a terminal, else one line after the other."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import structlog

from common.process.output import discard_if_closed

log = structlog.get_logger()

_TERMINAL_SECONDS = 0.5
_PLAIN_SECONDS = 10.0


class RecentRate:
    """Computes the rate of a growing count over the last minute.

    The window has at least two samples, so that a slow count has a rate too.
    """

    def __init__(self, window_seconds: float = 60.0) -> None:
        self._window_seconds = window_seconds
        self._samples: tuple[tuple[float, int], ...] = ()  # replaced, never mutated: any thread may read it

    def add(self, now: float, count: int) -> None:
        """Add the count at time `now`; neither decreases."""
        self._samples = (*self._within(now), (now, count))

    def per_second(self, now: float) -> float:
        """Return the rate over the window that ends at `now`; 0 with fewer than two samples."""
        samples = self._within(now)
        if len(samples) < 2:
            return 0.0
        (began, before), (_, count) = samples[0], samples[-1]
        return (count - before) / (now - began)

    def _within(self, now: float) -> tuple[tuple[float, int], ...]:
        """Return the samples within the window and the one before it; at least two if there are two."""
        samples = self._samples
        outside = sum(added_at <= now - self._window_seconds for added_at, _ in samples[1:-1])
        return samples[outside:]


@dataclass(frozen=True, slots=True)
class ProgressFacts:
    """The values that the progress line and the page show."""

    env_steps: int
    total_steps: int
    frames: int
    steps_per_second: float  # of the last minute
    return_mean: float | None
    bonus: float | None
    actors: int
    lag: int  # largest number of versions between the collection of a chunk and its training
    warmup: str | None = None  # progress of the warm-up, as text; None after it

    def text(self) -> str:
        """Return the progress line."""
        if self.warmup is not None:
            return f"warm-up {self.warmup} | actors {self.actors}"
        left = (self.total_steps - self.env_steps) / self.steps_per_second if self.steps_per_second else None
        parts = [
            f"steps {self.env_steps:,}/{self.total_steps:,}",
            f"frames {self.frames:,}",
            f"{self.steps_per_second:,.0f} steps/s",
            f"ETA {duration(left)}",
            f"return {_number(self.return_mean)}",
            f"bonus {_number(self.bonus)}",
            f"actors {self.actors}",
            f"lag {self.lag}",
        ]
        return " | ".join(parts)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """Return hours, minutes and seconds, such as 1:02:03; "-" for None."""
    if seconds is None:
        return "-"
    hours, rest = divmod(int(max(0.0, seconds)), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


class ProgressLine:
    """Writes the line to standard output: at most twice a second on a terminal, else every ten seconds."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._shown_at = float("-inf")

    def show(self, line: ProgressFacts, last: bool = False) -> None:
        """Show the line if it is due, or if it is the last."""
        now = time.monotonic()
        if not last and now - self._shown_at < (_TERMINAL_SECONDS if self._terminal else _PLAIN_SECONDS):
            return
        self._shown_at = now
        end = "\n" if last or not self._terminal else ""
        try:
            sys.stdout.write(("\r\x1b[K" if self._terminal else "") + line.text() + end)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader of the output has ended; the run continues
            discard_if_closed(sys.stdout)
            log.warning("progress_line_closed", next="training continues without it")
