"""Which session may play for which batch: places, grants, and patience. Pure decisions, no sockets.

A batch has E / B places, one chunk each. Once version v is published, places of the batches v to
v + max_lag are open, the oldest first. A session holds at most one grant, for one batch; the least
recently served gets the next place. A grant that is overdue no longer counts, so its place goes to
another session as well; the first chunk fills it, the other is surplus.
"""

from __future__ import annotations

import statistics
from collections import Counter, deque
from dataclasses import dataclass

from common.config import Config
from common.protocol.chunk import WARMUP_VERSION
from common.protocol.messages import ChunkMessage, Reason
from learner.server.sessions import SessionRecord

_OVERDUE_SECONDS = 2.0  # least time before a place is offered again,
_OVERDUE_MEDIANS = 3.0  # and in medians of the recent chunk times


@dataclass(slots=True)
class OpenBatch:
    """Of one batch."""

    total: int
    filled: int = 0


@dataclass(frozen=True, slots=True)
class AdmittedChunk:
    """A chunk admitted to a batch, still compressed."""

    batch: int
    slot: int
    incarnation: int
    message: ChunkMessage


class GrantScheduler:
    """Owned by the network thread, through `Admission`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.version = WARMUP_VERSION  # newest published
        self.batches: dict[int, OpenBatch] = {}  # open ones by number: the version they will update
        self._chunk_seconds: deque[float] = deque(maxlen=64)
        self._serial = 0
        # Kept up to date, so that a chunk costs the same in a fleet of any size.
        self._idle: dict[bytes, SessionRecord] = {}  # connected, without a grant
        self._playing: dict[bytes, SessionRecord] = {}  # with a grant that is not overdue, the oldest first
        self._taken: Counter[int] = Counter()  # of those, by batch

    def open(self, version: int) -> None:
        """Bundle `version` is published: open its batch, and `max_lag` more."""
        self.version = version
        chunks, last = self._config.rollout.batch_chunks, version + self._config.max_lag
        if version == WARMUP_VERSION:
            chunks, last = self._config.warmup_chunks, version
        numbers = range(version, max(version, min(last, self._config.updates - 1)) + 1)
        self.batches = {number: self.batches.get(number, OpenBatch(chunks)) for number in numbers}

    def reopen(self) -> None:
        """The batch of the present version could not be used: ask for another one."""
        self.batches[self.version] = OpenBatch(self._config.rollout.batch_chunks)

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

    def seated(self, seat: SessionRecord) -> None:
        """The session has a connection: it may play."""
        if seat.granted_at is None:
            self._idle[seat.sid] = seat

    def remove(self, seat: SessionRecord) -> None:
        """The session is over: its place is open again."""
        self._idle.pop(seat.sid, None)
        self._release(seat)

    def chunk_received(self, seat: SessionRecord, now: float) -> None:
        """The session sent its chunk: its grant is used."""
        if seat.granted_at is not None:
            self._chunk_seconds.append(now - seat.granted_at)
            seat.granted_at = None
            self._release(seat)
            self._idle[seat.sid] = seat

    def grant(self, now: float) -> list[SessionRecord]:
        """Give open places to idle sessions; returns those."""
        self._release_overdue(now)
        taken = self._taken.copy()
        given: list[SessionRecord] = []
        for batch, places in self.batches.items():
            free = places.total - places.filled - taken[batch]
            if free <= 0 or not self._idle:
                continue
            behind = sum(count for other, count in taken.items() if other < batch)
            for seat in sorted(self._idle.values(), key=lambda seat: (seat.served, seat.slot)):
                if free <= 0:
                    break
                if free > behind or seat.batch < batch:  # those behind go before anyone's second place
                    free -= 1
                    self._play(seat, batch, now)
                    given.append(seat)
        return given

    @property
    def usual_seconds(self) -> float | None:
        """Median time from a grant to its chunk, of the newest 64; None before the first."""
        return statistics.median(self._chunk_seconds) if self._chunk_seconds else None

    def _play(self, seat: SessionRecord, batch: int, now: float) -> None:
        self._serial += 1
        seat.served, seat.granted_at, seat.batch = self._serial, now, batch
        del self._idle[seat.sid]
        self._playing[seat.sid] = seat
        self._taken[batch] += 1

    def _release(self, seat: SessionRecord) -> None:
        """The session holds no place any more, if it did."""
        if self._playing.pop(seat.sid, None) is not None:
            self._taken[seat.batch] -= 1
            if not self._taken[seat.batch]:
                del self._taken[seat.batch]

    def _release_overdue(self, now: float) -> None:
        """A grant that is overdue no longer counts."""
        usual = self.usual_seconds
        while usual is not None and self._playing:
            oldest = next(iter(self._playing.values()))
            assert oldest.granted_at is not None
            if now - oldest.granted_at <= max(_OVERDUE_SECONDS, _OVERDUE_MEDIANS * usual):
                return
            self._release(oldest)
