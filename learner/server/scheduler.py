"""Decides which session collects a chunk for which batch. Pure decisions; time comes in as `now`.

A batch takes `batch_chunks` chunks. Once version v is published, the batches v to v + max_lag are open, the
oldest first. A session has at most one grant, for one chunk of one batch. The next grant is for the session
whose last grant is the oldest. An overdue grant no longer counts, so another session gets one as well. The
first chunk to arrive is used, and the other is surplus.
"""

from __future__ import annotations

import statistics
from collections import Counter, deque
from dataclasses import dataclass

from common.config import Config
from common.durations import Durations
from common.protocol.chunk import WARMUP_VERSION
from common.protocol.messages import ChunkMessage, Reason

# A grant is overdue after the longer of the first two times, and in any case after the third.
_OVERDUE_SECONDS = 2.0
_OVERDUE_MEDIANS = 3.0  # in medians of the recent times from a grant to its admitted chunk
_OVERDUE_LIMIT_SECONDS = 60.0


@dataclass(slots=True)
class OpenBatch:
    """A batch that takes `size` chunks."""

    size: int
    admitted: int = 0


@dataclass(frozen=True, slots=True)
class AdmittedChunk:
    """A chunk that was admitted to a batch, still compressed."""

    batch: int
    slot: int
    incarnation: int
    message: ChunkMessage


@dataclass(slots=True)
class Grant:
    """The newest grant of a session. Written by `GrantScheduler` alone."""

    slot: int  # of the session
    batch: int = WARMUP_VERSION - 1  # a batch that is never open
    granted_at: float | None = None  # None once its chunk has arrived
    serial: int = 0  # counts the grants of all sessions; 0 before the first


class GrantScheduler:
    """Grants chunks of open batches to connected sessions. Owned by the network thread."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.version = WARMUP_VERSION  # newest published
        self.batches: dict[int, OpenBatch] = {}  # open batches by the version that they will update
        self._chunk_seconds: deque[float] = deque(maxlen=64)
        self.chunk_durations = Durations()  # from a grant to its admitted chunk, of this process
        self._serial = 0
        self._grants: dict[bytes, Grant] = {}  # of every connected session
        # Kept up to date, so that the time per chunk does not depend on the number of sessions.
        self._idle: dict[bytes, Grant] = {}  # without an open grant
        self._counted: dict[bytes, Grant] = {}  # with a grant that is not overdue, the oldest first
        self._granted: Counter[int] = Counter()  # number of those, by batch

    def open(self, version: int) -> None:
        """Open the batch of `version`, which was just published, and those of the next `max_lag` versions."""
        self.version = version
        chunks, last = self._config.rollout.batch_chunks, version + self._config.max_lag
        if version == WARMUP_VERSION:
            chunks, last = self._config.warmup_chunks, version
        numbers = range(version, max(version, min(last, self._config.updates - 1)) + 1)
        self.batches = {number: self.batches.get(number, OpenBatch(chunks)) for number in numbers}

    def close(self) -> None:
        """Close every batch."""
        self.batches = {}

    def admit(self, number: int, version: int) -> Reason | None:
        """Admit a chunk of policy `version` to batch `number`, or return why it is dropped."""
        batch = self.batches.get(number)
        if batch is None or not number - self._config.max_lag <= version <= self.version:
            return "stale"
        if batch.admitted >= batch.size:
            return "surplus"
        batch.admitted += 1
        return None

    def withdraw(self, batch: int, chunks: int = 1) -> None:
        """Take back the admission of chunks that could not be decoded or trained on."""
        if batch in self.batches:
            self.batches[batch].admitted -= chunks

    def batch_of(self, sid: bytes) -> int:
        """Return the batch of a session's newest grant."""
        grant = self._grants.get(sid)
        return WARMUP_VERSION - 1 if grant is None else grant.batch

    def is_collecting(self, sid: bytes) -> bool:
        """Return whether a session has a grant whose chunk has not arrived."""
        grant = self._grants.get(sid)
        return grant is not None and grant.granted_at is not None

    def add(self, sid: bytes, slot: int) -> None:
        """Add a session that connected; a second connection changes nothing."""
        grant = self._grants.setdefault(sid, Grant(slot))
        if grant.granted_at is None:
            self._idle[sid] = grant

    def remove(self, sid: bytes) -> None:
        """Remove a session; its grant no longer counts."""
        self._idle.pop(sid, None)
        self._release(sid)
        self._grants.pop(sid, None)

    def chunk_received(self, sid: bytes, now: float) -> float | None:
        """End the grant of a session whose chunk arrived; return its age in seconds, None without a grant."""
        grant = self._grants[sid]
        if grant.granted_at is None:
            return None
        seconds = now - grant.granted_at
        grant.granted_at = None
        self._release(sid)
        self._idle[sid] = grant
        return seconds

    def add_chunk_seconds(self, seconds: float) -> None:
        """Add the time from a grant to its admitted chunk."""
        self._chunk_seconds.append(seconds)
        self.chunk_durations = self.chunk_durations.with_one(seconds)

    def grant(self, now: float) -> list[bytes]:
        """Grant chunks of open batches to idle sessions; return those sessions."""
        self._release_overdue(now)
        granted = self._granted.copy()
        served: list[bytes] = []
        for number, batch in self.batches.items():
            free = batch.size - batch.admitted - granted[number]
            if free <= 0 or not self._idle:
                continue
            behind = sum(count for other, count in granted.items() if other < number)
            for sid, grant in sorted(self._idle.items(), key=lambda item: (item[1].serial, item[1].slot)):
                if free <= 0:
                    break
                # Sessions that still collect for an older batch come before the second chunk of any session.
                if free > behind or grant.batch < number:
                    free -= 1
                    self._grant_chunk(sid, grant, number, now)
                    served.append(sid)
        return served

    @property
    def median_chunk_seconds(self) -> float | None:
        """Median time from a grant to its admitted chunk, of the newest 64; None before the first."""
        return statistics.median(self._chunk_seconds) if self._chunk_seconds else None

    def _grant_chunk(self, sid: bytes, grant: Grant, batch: int, now: float) -> None:
        self._serial += 1
        grant.serial, grant.granted_at, grant.batch = self._serial, now, batch
        del self._idle[sid]
        self._counted[sid] = grant
        self._granted[batch] += 1

    def _release(self, sid: bytes) -> None:
        """Stop counting the grant of a session for its batch, if it counts."""
        grant = self._counted.pop(sid, None)
        if grant is not None:
            self._granted[grant.batch] -= 1
            if not self._granted[grant.batch]:
                del self._granted[grant.batch]

    def _release_overdue(self, now: float) -> None:
        """Stop counting overdue grants; each keeps its batch and its time."""
        median = self.median_chunk_seconds
        while median is not None and self._counted:
            sid, oldest = next(iter(self._counted.items()))
            assert oldest.granted_at is not None
            patience = min(_OVERDUE_LIMIT_SECONDS, max(_OVERDUE_SECONDS, _OVERDUE_MEDIANS * median))
            if now - oldest.granted_at <= patience:
                return
            self._release(sid)
