"""Counts durations in buckets, for histograms. Pure."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

BOUNDS_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)


class Durations(NamedTuple):
    """How many durations were up to each bound, and beyond the last, and their sum."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS_SECONDS) + 1)
    sum_seconds: float = 0.0

    def with_one(self, seconds: float) -> Durations:
        """Return these durations and one more."""
        bucket = bisect_left(BOUNDS_SECONDS, seconds)
        counts = (*self.counts[:bucket], self.counts[bucket] + 1, *self.counts[bucket + 1 :])
        return Durations(counts, self.sum_seconds + seconds)
