"""Which session may play for which batch: places, grants, and patience. Pure decisions, no sockets.

A batch has E / B places, one chunk each. Once version v is published, places of the batches v to
v + max_lag are open, the oldest first. A session holds at most one grant, for one batch; the least
recently served gets the next place. A grant that is overdue no longer counts, so its place goes to
another session as well; the first chunk fills it, the other is surplus.
"""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from common.chunk import WARMUP_VERSION
from common.config import Config
from common.messages import ChunkMessage, Reason
from learner.seats import Seat

_OVERDUE_SECONDS = 2.0  # least time before a place is offered again,
_OVERDUE_MEDIANS = 3.0  # and in medians of the recent chunk times


@dataclass(slots=True)
class Places:
    """Of one batch."""

    total: int
    filled: int = 0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A chunk admitted to a batch, still compressed."""

    batch: int
    slot: int
    incarnation: int
    message: ChunkMessage


class Credit:
    """Owned by the network thread, through `Admission`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.version = WARMUP_VERSION  # newest published
        self.batches: dict[int, Places] = {}  # open ones by number: the version they will update
        self._chunk_seconds: deque[float] = deque(maxlen=64)
        self._serial = 0

    def open(self, version: int) -> None:
        """Bundle `version` is published: open its batch, and `max_lag` more."""
        self.version = version
        chunks, last = self._config.rollout.batch_chunks, version + self._config.max_lag
        if version == WARMUP_VERSION:
            chunks, last = self._config.warmup_chunks, version
        numbers = range(version, max(version, min(last, self._config.updates - 1)) + 1)
        self.batches = {number: self.batches.get(number, Places(chunks)) for number in numbers}

    def reopen(self) -> None:
        """The batch of the present version could not be used: ask for another one."""
        self.batches[self.version] = Places(self._config.rollout.batch_chunks)

    def close(self) -> None:
        """No more places."""
        self.batches = {}

    def admit(self, batch: int, version: int) -> Reason | None:
        """Fill a place of `batch` with a chunk of `version`, or say why not."""
        places = self.batches.get(batch)
        if places is None or not batch - self._config.max_lag <= version <= self.version:
            return "stale"
        if places.filled >= places.total:
            return "surplus"
        places.filled += 1
        return None

    def refuse(self, batch: int) -> None:
        """A chunk that filled a place turned out to be unreadable."""
        if batch in self.batches:
            self.batches[batch].filled -= 1

    def answered(self, seat: Seat, now: float) -> None:
        """The session sent its chunk: its grant is used."""
        if seat.granted_at is not None:
            self._chunk_seconds.append(now - seat.granted_at)
            seat.granted_at = None

    def grant(self, seats: Iterable[Seat], now: float) -> list[Seat]:
        """Give open places to idle sessions; returns those."""
        seats = list(seats)
        idle = [seat for seat in seats if seat.granted_at is None and seat.peer is not None]
        idle.sort(key=lambda seat: (seat.served, seat.slot))
        busy = [seat for seat in seats if seat.granted_at is not None and not self._overdue(seat, now)]
        taken = Counter(seat.batch for seat in busy)
        given = []
        for batch, places in self.batches.items():
            free = places.total - places.filled - taken[batch]
            behind = sum(seat.batch < batch for seat in busy)  # they go before anyone's second place
            for seat in [seat for seat in idle if seat.granted_at is None]:
                if free > (behind if seat.batch >= batch else 0):
                    free -= 1
                    self._serial += 1
                    seat.served, seat.granted_at, seat.batch = self._serial, now, batch
                    given.append(seat)
        return given

    @property
    def usual_seconds(self) -> float | None:
        """Median time from a grant to its chunk, of the newest 64; None before the first."""
        return statistics.median(self._chunk_seconds) if self._chunk_seconds else None

    def _overdue(self, seat: Seat, now: float) -> bool:
        assert seat.granted_at is not None
        usual = self.usual_seconds if self.usual_seconds is not None else float("inf")
        return now - seat.granted_at > max(_OVERDUE_SECONDS, _OVERDUE_MEDIANS * usual)
