"""What each key has done with its grants: open grants, chunk times and delays. Time comes in as `now`.

A grant reserves a place in a batch. If its chunk is late or does not arrive, the sessions of other keys wait.
The waiting time is counted for the key. A key with too much of it is restricted: its grants reserve no place,
so the others fill the batch as if the key were absent. The count falls with time, so the key is tried again.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from common.durations import Durations

# A grant is overdue after the longer of the first two times, and in any case after the third.
_OVERDUE_SECONDS = 2.0
_OVERDUE_MEDIANS = 3.0  # in typical times from a grant to its admitted chunk
_OVERDUE_LIMIT_SECONDS = 60.0

_DELAY_SHARE = 0.02  # of the time that one key may delay the others in the long run
_DELAY_PATIENCES = 2.0  # what it may delay them at once, in times after which a grant is overdue
_ON_TIME_SECONDS = 0.25  # processes are not scheduled more exactly; a chunk is not late before that
_KEYS_PER_CHANGE = 16  # the median over keys is taken again after one change for each so many keys


@dataclass(slots=True)
class KeyRecord:
    """The grants of one key. Written by `KeyRecords` alone."""

    sessions: int = 0  # that are connected
    open_grants: int = 0  # whose chunks have not arrived, the overdue ones too
    chunk_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=64))
    median_seconds: float | None = None  # of those
    delay_seconds: float = 0.0  # for which the key delayed others, less what was forgiven
    counted_until: float = float("-inf")  # the delays up to this time are counted

    def delay_at(self, now: float) -> float:
        """Return the delay that counts at a time."""
        forgiven = 0.0 if self.delay_seconds == 0.0 else _DELAY_SHARE * (now - self.counted_until)
        return max(0.0, self.delay_seconds - forgiven)


class KeyRecords:
    """The records of all keys. Owned by the network thread, through `GrantScheduler`."""

    def __init__(self) -> None:
        self._records: dict[str, KeyRecord] = {}
        self._connected: dict[str, KeyRecord] = {}  # keys with sessions
        self._delaying: set[str] = set()  # keys with delays that may still count
        self._sessions = 0
        self._changes = 0  # since the median over keys was taken
        self.median_chunk_seconds: float | None = None  # see `add_chunk_seconds`
        self.chunk_durations = Durations()  # from a grant to its admitted chunk, of this process
        self.restricted: AbstractSet[str] = frozenset()
        self.newly_restricted: list[str] = []  # the caller empties it

    def join(self, key: str) -> None:
        """Count a session that connected."""
        record = self._connected[key] = self._records.setdefault(key, KeyRecord())
        record.sessions += 1
        self._sessions += 1

    def leave(self, key: str) -> None:
        """Count a session that ended."""
        record = self._records[key]
        record.sessions -= 1
        self._sessions -= 1
        if not record.sessions:
            del self._connected[key]
            self._median_changed()

    def open_grants(self, key: str) -> int:
        """Return the number of grants of a key whose chunks have not arrived."""
        return self._records[key].open_grants

    def grant_opened(self, key: str) -> None:
        """Count a grant."""
        self._records[key].open_grants += 1

    def grant_ended(self, key: str) -> None:
        """Count the end of a grant, by a chunk or because its session ended."""
        self._records[key].open_grants -= 1

    def add_chunk_seconds(self, key: str, seconds: float) -> None:
        """Add the time from a grant to its admitted chunk.

        The typical time is the median over keys of the median of the newest 64 times of each key, so that the
        number of sessions of a key does not count. With two keys it is the shorter one.
        """
        record = self._records[key]
        record.chunk_seconds.append(seconds)
        self.chunk_durations = self.chunk_durations.with_one(seconds)
        record.median_seconds = statistics.median(record.chunk_seconds)
        self._median_changed()

    def overdue_seconds(self) -> float | None:
        """Return the time after which a grant is overdue; None before the first chunk."""
        median = self.median_chunk_seconds
        if median is None:
            return None
        return min(_OVERDUE_LIMIT_SECONDS, max(_OVERDUE_SECONDS, _OVERDUE_MEDIANS * median))

    def on_time_seconds(self, key: str, batch_chunks: int) -> float:
        """Return the time within which a chunk of a key delays no other key.

        The sessions of the other keys would fill the batch alone in this time, less one chunk time.
        """
        median = self.median_chunk_seconds
        others = self._other_sessions(key)
        if median is None or not others:
            return float("inf")
        return max(_ON_TIME_SECONDS, (1 - (-batch_chunks // others)) * median)

    def add_delay(self, key: str, start: float, now: float) -> None:
        """Count that a key delayed others from `start` until now; time that already counts is not added."""
        record = self._records[key]
        if not self._other_sessions(key) or now <= max(start, record.counted_until):
            return
        record.delay_seconds = record.delay_at(now) + now - max(start, record.counted_until)
        record.counted_until = now
        self._delaying.add(key)

    def add_failure(self, key: str, now: float) -> None:
        """Count an admitted chunk that was useless as a grant that became overdue."""
        overdue_seconds = self.overdue_seconds()
        if key in self._records and overdue_seconds is not None:
            self.add_delay(key, now - overdue_seconds, now)

    def restrict(self, now: float) -> AbstractSet[str]:
        """Update the restricted keys; return those that have just become so.

        While no other key has sessions, a key delays nobody and is not restricted.
        """
        overdue_seconds = self.overdue_seconds()
        if not self._delaying or overdue_seconds is None:
            return frozenset()
        before, limit = self.restricted, _DELAY_PATIENCES * overdue_seconds
        self._delaying = {key for key in self._delaying if self._records[key].delay_at(now) > 0.0}
        over = {key for key in self._delaying if self._records[key].delay_at(now) > limit}
        self.restricted = over if any(key not in over for key in self._connected) else frozenset()
        self.newly_restricted += self.restricted - before
        return self.restricted - before

    def _other_sessions(self, key: str) -> int:
        """Return the number of sessions of other keys that are not restricted."""
        restricted = sum(self._records[other].sessions for other in self.restricted if other != key)
        return self._sessions - self._records[key].sessions - restricted

    def _median_changed(self) -> None:
        """Take the median over keys again, often enough."""
        self._changes += 1
        if (
            self.median_chunk_seconds is not None
            and self._changes <= len(self._connected) // _KEYS_PER_CHANGE
        ):
            return
        self._changes = 0
        records = (record for key, record in self._connected.items() if key not in self.restricted)
        medians = [record.median_seconds for record in records if record.median_seconds is not None]
        if medians:
            self.median_chunk_seconds = statistics.median_low(medians)
