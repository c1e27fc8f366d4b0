"""The progress line: rewritten in place on a terminal, one plain line at a time elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import structlog

from common.output import discard_if_closed

log = structlog.get_logger()

_TERMINAL_SECONDS = 0.5
_PLAIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """The facts of the line."""

    env_steps: int
    total_steps: int
    frames: int
    steps_per_second: float
    return_mean: float | None
    bonus: float | None
    actors: int
    lag: int
    warmup: str | None = None

    def text(self) -> str:
        """As shown."""
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
    """Hours, minutes and seconds, as in 1:02:03."""
    if seconds is None:
        return "-"
    hours, rest = divmod(int(max(0.0, seconds)), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


class ProgressLine:
    """Writes to standard output, not too often."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._shown_at = float("-inf")

    def show(self, line: Line, last: bool = False) -> None:
        """Show the line if it is time, or if it is the last."""
        now = time.monotonic()
        if not last and now - self._shown_at < (_TERMINAL_SECONDS if self._terminal else _PLAIN_SECONDS):
            return
        self._shown_at = now
        end = "\n" if last or not self._terminal else ""
        try:
            sys.stdout.write(("\r\x1b[K" if self._terminal else "") + line.text() + end)
            sys.stdout.flush()
        except BrokenPipeError:  # training is worth more than its line
            discard_if_closed(sys.stdout)
            log.warning("progress_line_closed", next="training continues without it")
