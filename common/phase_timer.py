"""Measures the time that a loop spends in each of its phases."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping


class PhaseTimer:
    """Seconds spent in each phase of one thread's loop.

    Any thread may read `seconds`: each measurement replaces the mapping and never changes it.
    """

    def __init__(self, phases: Iterable[str]) -> None:
        self.seconds: Mapping[str, float] = dict.fromkeys(phases, 0.0)

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the time of the enclosed block to `phase`, also if the block raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent_seconds = self.seconds[phase] + time.perf_counter() - start
            self.seconds = {**self.seconds, phase: spent_seconds}
