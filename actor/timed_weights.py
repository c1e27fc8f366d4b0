"""Measures how long fetches of weights take."""

from __future__ import annotations

import time
from collections.abc import Callable

from actor.weights import Blob, WeightsSource
from common.protocol.messages import BlobName


class TimedWeights:
    """A source of weights that reports the seconds of each fetch that returned a blob."""

    def __init__(self, source: WeightsSource, report: Callable[[float], None]) -> None:
        self._source, self._report = source, report

    def fetch(self, name: BlobName, held: tuple[int, int], keep_waiting: Callable[[], bool]) -> Blob | None:
        """See `WeightsSource.fetch`."""
        began_at = time.monotonic()
        blob = self._source.fetch(name, held, keep_waiting)
        if blob is not None:
            self._report(time.monotonic() - began_at)
        return blob

    def reconnect(self) -> None:
        """See `WeightsSource.reconnect`."""
        self._source.reconnect()

    def close(self) -> None:
        """See `WeightsSource.close`."""
        self._source.close()
