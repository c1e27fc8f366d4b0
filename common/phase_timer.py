"""Measures the time that a loop spends in each of its phases, and the part without a free core."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

_SCHEDSTAT = Path("/proc/thread-self/schedstat")  # nanoseconds on a core, and in a run queue


class PhaseTimer:
    """Seconds spent in each phase of one thread's loop.

    Any thread may read `seconds`: each measurement replaces the mapping and never changes it.
    """

    def __init__(self, phases: Iterable[str]) -> None:
        self.seconds: Mapping[str, float] = dict.fromkeys(phases, 0.0)
        self._block: dict[str, float] | None = None  # measured in the present `computation`

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the time of the enclosed block to `phase`, also if the block raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent_seconds = time.perf_counter() - start
            if self._block is None:
                self.seconds = {**self.seconds, phase: self.seconds[phase] + spent_seconds}
            else:
                self._block[phase] += spent_seconds

    @contextlib.contextmanager
    def computation(self) -> Iterator[None]:
        """Count the time without a free core, within the enclosed block, as the phase `core_wait`.

        The share of the block without a core is taken from each phase that the block measures. `seconds`
        changes once, at the end of the block.
        """
        self._block = dict.fromkeys(self.seconds, 0.0)
        start, waited_before = time.perf_counter(), core_wait_seconds()
        try:
            yield
        finally:
            block, self._block = self._block, None
            waited_seconds, wall_seconds = core_wait_seconds() - waited_before, time.perf_counter() - start
            share = min(1.0, waited_seconds / wall_seconds) if wall_seconds else 0.0
            core_wait = share * sum(block.values())
            block = {phase: spent * (1.0 - share) for phase, spent in block.items()}
            block["core_wait"] += core_wait
            self.seconds = {phase: spent + block[phase] for phase, spent in self.seconds.items()}


def core_wait_seconds() -> float:
    """Return how long this thread was ready to run without a free core; 0 if the system does not tell."""
    try:
        return int(_SCHEDSTAT.read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
