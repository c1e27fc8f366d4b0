"""A clock that a test sets, for code that reads the time by itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Clock:
    """Stands for the module `time` in the module under test."""

    now: float = 1_000.0

    def monotonic(self) -> float:
        """The present time in seconds."""
        return self.now

    def perf_counter(self) -> float:
        """The present time in seconds."""
        return self.now
