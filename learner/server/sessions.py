"""The table of live sessions: slots, incarnations, and which connection each was last heard on."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from common.protocol.chunk import WARMUP_VERSION
from common.protocol.messages import Phase
from learner.server.status import SessionStatus


@dataclass(slots=True)
class SessionRecord:
    """A live session's place in the fleet."""

    sid: bytes
    key: str  # public key that owns the session; empty without keys
    slot: int
    incarnation: int
    expires: float
    peer: bytes | None = None  # None: known from a checkpoint, not heard of in this generation
    credit: int = 0
    returned: int = 0  # steps it had produced when it was first heard of in this generation
    granted_at: float | None = None  # of the open grant
    batch: int = WARMUP_VERSION - 1  # that the newest grant is for
    served: int = 0  # serial number of its last grant
    bad_crcs: int = 0
    offence: str | None = None  # found when its message had gone on; counts with the next one
    stats: dict[str, float] | None = None  # of its newest heartbeat
    steps: int = 0  # that arrived since it took this place
    host: str = ""

    def shown(self, lease_until: float) -> SessionStatus:
        """For other threads; `lease_until` is when a lease ends that is renewed now."""
        silent = max(0.0, lease_until - self.expires)
        plays = self.granted_at is not None
        return SessionStatus(self.slot, self.host, self.incarnation, self.steps, plays, silent)


class SessionTable:
    """Owned by the network thread, through `Admission`."""

    def __init__(self) -> None:
        self._seats: dict[bytes, SessionRecord] = {}
        self._by_peer: dict[bytes, SessionRecord] = {}
        self._by_key: Counter[str] = Counter()
        self._incarnations: dict[int, int] = {}
        self._free_slots: list[int] = []  # a heap of those below `_new_slot`
        self._new_slot = 0
        self.phase_seconds = dict.fromkeys(get_args(Phase), 0.0)  # of all actors so far

    def __iter__(self) -> Iterator[SessionRecord]:
        return iter(list(self._seats.values()))

    def __len__(self) -> int:
        return len(self._seats)

    def get(self, sid: bytes) -> SessionRecord | None:
        """The seat of a session."""
        return self._seats.get(sid)

    def heard_on(self, peer: bytes) -> SessionRecord | None:
        """The seat whose session speaks on a connection."""
        return self._by_peer.get(peer)

    def count(self, key: str) -> int:
        """Sessions of one key."""
        return self._by_key[key]

    def join(self, sid: bytes, key: str, peer: bytes, expires: float) -> tuple[SessionRecord, bool]:
        """Enter a session, or its new connection; also whether its lanes are reset."""
        seat = self._seats.get(sid)
        if seat is None:
            seat = self._seats[sid] = SessionRecord(sid, key, self._take_slot(), 0, 0.0)
            self._by_key[key] += 1
        lanes_reset = seat.peer is None
        if lanes_reset:
            self._incarnations[seat.slot] = seat.incarnation = self._incarnations.get(seat.slot, -1) + 1
        else:
            self._by_peer.pop(seat.peer or b"", None)
        seat.peer, seat.expires = peer, expires
        self._by_peer[peer] = seat
        return seat, lanes_reset

    def note(self, seat: SessionRecord, stats: dict[str, float]) -> None:
        """Add what the actor's sums grew by. At first they may be of earlier sessions: a mark, no more."""
        before = stats if seat.stats is None else seat.stats
        for phase in self.phase_seconds:
            grown = stats.get(f"phase_{phase}", 0.0) - before.get(f"phase_{phase}", 0.0)
            self.phase_seconds[phase] += max(0.0, grown)
        seat.stats = stats

    def leave(self, seat: SessionRecord) -> None:
        """Free the seat and its slot."""
        self._by_peer.pop(seat.peer or b"", None)
        del self._seats[seat.sid]
        self._by_key[seat.key] -= 1
        heapq.heappush(self._free_slots, seat.slot)

    def _take_slot(self) -> int:
        """The smallest free slot."""
        if self._free_slots:
            return heapq.heappop(self._free_slots)
        self._new_slot += 1
        return self._new_slot - 1

    def to_list(self, local: set[bytes]) -> list[object]:
        """For a checkpoint: sessions, and how often each slot was taken."""
        seats = [[seat.sid.hex(), seat.slot, seat.sid in local] for seat in self]
        return [seats, sorted(self._incarnations.items())]

    def restore(
        self, saved: list[list[list[object]]], owners: Mapping[bytes, str], expires: float
    ) -> list[SessionRecord]:
        """Take over `to_list`; `owners` are the keys of the sessions.

        Returns:
            The seats of sessions that ended with the earlier process.
        """
        seats, incarnations = saved
        self._incarnations = {int(str(slot)): int(str(number)) for slot, number in incarnations}
        ended = []
        for name, slot, local in seats:
            sid, number = bytes.fromhex(str(name)), int(str(slot))
            seat = SessionRecord(sid, owners[sid], number, self._incarnations[number], expires)
            self._seats[sid] = seat
            self._by_key[seat.key] += 1
            if local:
                ended.append(seat)
        taken = {seat.slot for seat in self}
        self._new_slot = max(taken, default=-1) + 1
        self._free_slots = [slot for slot in range(self._new_slot) if slot not in taken]  # sorted: a heap
        return ended
