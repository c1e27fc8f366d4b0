"""Decides which session collects a chunk for which batch. Pure decisions; time comes in as `now`.

A batch takes `batch_chunks` chunks. Once version v is published, the batches v to v + max_lag are open, the
oldest first. A session has at most one grant, for one chunk of one batch. The next grant is for the key with
the fewest open grants, and among its sessions for the one whose last grant is the oldest. An overdue grant no
longer reserves its place, so another session gets one as well. The first chunk to arrive is used, and the
other is surplus. The grants of a restricted key reserve no places, see `learner.server.key_records`.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from common.config import Config
from common.protocol.chunk import WARMUP_VERSION
from common.protocol.messages import ChunkMessage, Reason
from learner.server.key_records import KeyRecords


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
    key: str  # of the session; empty without keys
    batch: int = WARMUP_VERSION - 1  # a batch that is never open
    granted_at: float | None = None  # None once its chunk has arrived
    announced: bool = False  # whether the session was told, so that a chunk can answer it
    spare: bool = False  # whether it was granted to a restricted key
    serial: int = 0  # counts the grants of all sessions; 0 before the first


class GrantScheduler:
    """Grants chunks of open batches to connected sessions. Owned by the network thread."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.version = WARMUP_VERSION  # newest published
        self.batches: dict[int, OpenBatch] = {}  # open batches by the version that they will update
        self.keys = KeyRecords()
        self._serial = 0
        self._grants: dict[bytes, Grant] = {}  # of every connected session
        # Kept up to date, so that the time per chunk does not depend on the number of sessions.
        self._idle: dict[bytes, Grant] = {}  # without an open grant
        self._reserving: dict[bytes, Grant] = {}  # with a grant that reserves a place, the oldest first
        self._reserved: Counter[int] = Counter()  # number of those, by batch
        self._spare: Counter[int] = Counter()  # number of open grants of restricted keys, by batch
        self._left: list[tuple[Grant, float]] = []  # of sessions that ended since the last `grant`

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

    def admit(self, number: int, version: int, key: str = "") -> Reason | None:
        """Admit a chunk of policy `version` to batch `number`, or return why it is dropped.

        A chunk of a restricted key is admitted only to a place that no grant reserves.
        """
        batch = self.batches.get(number)
        if batch is None or not number - self._config.max_lag <= version <= self.version:
            return "stale"
        taken = batch.admitted + (self._reserved[number] if key in self.keys.restricted else 0)
        if taken >= batch.size:
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

    def announce(self, sid: bytes) -> None:
        """Note that a session is told its credit; only a chunk that arrives later answers its grant."""
        self._grants[sid].announced = True

    def is_answer(self, sid: bytes) -> bool:
        """Return whether a chunk of a session that arrives now answers a grant."""
        return self.is_collecting(sid) and self._grants[sid].announced

    def add(self, sid: bytes, slot: int, key: str = "") -> None:
        """Add a session that connected; a second connection changes nothing."""
        if sid not in self._grants:
            self._grants[sid] = Grant(slot, key)
            self.keys.join(key)
        grant = self._grants[sid]
        if grant.granted_at is None:
            self._idle[sid] = grant

    def remove(self, sid: bytes) -> None:
        """Remove a session; its grant no longer reserves a place."""
        grant = self._grants.pop(sid, None)
        if grant is None:
            return
        self._idle.pop(sid, None)
        if self._release(sid):
            assert grant.granted_at is not None
            self._left.append((grant, grant.granted_at))
        self._end(grant)
        self.keys.leave(grant.key)

    def end_grant(self, sid: bytes, admitted: bool, now: float) -> None:
        """End the grant of a session whose chunk was admitted to its batch, or dropped."""
        grant = self._grants[sid]
        if grant.granted_at is None:
            return
        reserving = self._release(sid)
        if admitted:
            self.keys.add_chunk_seconds(grant.key, now - grant.granted_at)
        if reserving and admitted:
            on_time = self.keys.on_time_seconds(grant.key, self.batches[grant.batch].size)
            self.keys.add_delay(grant.key, grant.granted_at + on_time, now)
        elif reserving:
            self._add_delay(grant, grant.granted_at, now)
        self._end(grant)
        self._idle[sid] = grant

    def grant(self, now: float) -> list[bytes]:
        """Grant chunks of open batches to idle sessions; return those sessions."""
        self._release_overdue(now)
        reserved = self._reserved.copy()
        served: list[bytes] = []
        for number, batch in self.batches.items():
            free = batch.size - batch.admitted - reserved[number]
            if free <= 0 or not self._idle:
                continue
            behind = sum(count for other, count in reserved.items() if other < number)
            for sid, grant in _in_order(self._idle, self.keys):
                restricted = grant.key in self.keys.restricted
                if free <= (self._spare[number] if restricted else 0):
                    break
                # Sessions that still collect for an older batch come before the second chunk of any session.
                if free > behind or grant.batch < number:
                    free -= 0 if restricted else 1
                    self._grant_chunk(sid, grant, number, now)
                    served.append(sid)
        return served

    def _grant_chunk(self, sid: bytes, grant: Grant, batch: int, now: float) -> None:
        self._serial += 1
        grant.serial, grant.granted_at, grant.batch, grant.announced = self._serial, now, batch, False
        self.keys.grant_opened(grant.key)
        del self._idle[sid]
        grant.spare = grant.key in self.keys.restricted
        if grant.spare:
            self._spare[batch] += 1
            return
        self._reserving[sid] = grant
        self._reserved[batch] += 1

    def _end(self, grant: Grant) -> None:
        """Record that a grant is no longer open, if it is."""
        if grant.granted_at is None:
            return
        grant.granted_at = None
        self.keys.grant_ended(grant.key)
        if grant.spare:
            self._spare[grant.batch] -= 1
            self._spare += Counter()  # removes zeros

    def _release(self, sid: bytes) -> bool:
        """Free the place that the grant of a session reserves; return whether it did."""
        grant = self._reserving.pop(sid, None)
        if grant is None:
            return False
        self._reserved[grant.batch] -= 1
        if not self._reserved[grant.batch]:
            del self._reserved[grant.batch]
        return True

    def _add_delay(self, grant: Grant, start: float, now: float) -> None:
        """Count the time for which a grant reserved a place without an admitted chunk."""
        batch = self.batches.get(grant.batch)
        if batch is not None and batch.admitted < batch.size:
            self.keys.add_delay(grant.key, start, now)

    def _release_overdue(self, now: float) -> None:
        """Free the places of overdue grants and of restricted keys; each grant keeps batch and time."""
        for left, start in self._left:
            self._add_delay(left, start, now)
        self._left.clear()
        overdue_seconds = self.keys.overdue_seconds()
        while overdue_seconds is not None and self._reserving:
            sid, oldest = next(iter(self._reserving.items()))
            assert oldest.granted_at is not None
            if now - oldest.granted_at <= overdue_seconds:
                break
            self._release(sid)
            self._add_delay(oldest, oldest.granted_at, now)
        restricted = self.keys.restrict(now)
        if restricted:
            for sid in [sid for sid, grant in self._reserving.items() if grant.key in restricted]:
                self._release(sid)


def _in_order(idle: dict[bytes, Grant], keys: KeyRecords) -> Iterator[tuple[bytes, Grant]]:
    """Yield idle sessions in the order of their grants; the caller may grant a chunk to each.

    The key with the fewest open grants is next; restricted keys come last. The sessions of a key come in the
    order of their last grants, the new ones first.
    """
    queues: defaultdict[str, list[tuple[int, int, bytes]]] = defaultdict(list)
    for sid, grant in idle.items():
        queues[grant.key].append((grant.serial, grant.slot, sid))
    heap: list[tuple[bool, int, int, int, bytes, str]] = []

    def push(key: str) -> None:
        if queues[key]:
            heapq.heappush(heap, (key in keys.restricted, keys.open_grants(key), *queues[key].pop(), key))

    for key, queue in queues.items():
        queue.sort(reverse=True)
        push(key)
    while heap:
        *_, sid, key = heapq.heappop(heap)
        yield sid, idle[sid]
        push(key)
