"""The table of live sessions: slots, incarnations, and which connection each was last heard on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from common.chunk import WARMUP_VERSION
from common.messages import Phase
from learner.view import Seated


@dataclass(slots=True)
class Seat:
    """A live session's place in the fleet."""

    sid: bytes
    slot: int
    incarnation: int
    expires: float
    peer: bytes | None = None  # None: known from a checkpoint, not heard of in this epoch
    credit: int = 0
    returned: int = 0  # steps it had produced when it was first heard of in this epoch
    granted_at: float | None = None  # of the open grant
    batch: int = WARMUP_VERSION - 1  # that the newest grant is for
    served: int = 0  # serial number of its last grant
    bad_crcs: int = 0
    offence: str | None = None  # found when its message had gone on; counts with the next one
    stats: dict[str, float] | None = None  # of its newest heartbeat
    steps: int = 0  # that arrived since it took this place
    host: str = ""

    def shown(self, lease_until: float) -> Seated:
        """For other threads; `lease_until` is when a lease ends that is renewed now."""
        silent = max(0.0, lease_until - self.expires)
        plays = self.granted_at is not None
        return Seated(self.slot, self.host, self.incarnation, self.steps, plays, silent)


class Seats:
    """Owned by the network thread, through `Admission`."""

    def __init__(self) -> None:
        self._seats: dict[bytes, Seat] = {}
        self._by_peer: dict[bytes, Seat] = {}
        self._incarnations: dict[int, int] = {}
        self.phase_seconds = dict.fromkeys(get_args(Phase), 0.0)  # of all actors so far

    def __iter__(self) -> Iterator[Seat]:
        return iter(list(self._seats.values()))

    def __len__(self) -> int:
        return len(self._seats)

    def get(self, sid: bytes) -> Seat | None:
        """The seat of a session."""
        return self._seats.get(sid)

    def heard_on(self, peer: bytes) -> Seat | None:
        """The seat whose session speaks on a connection."""
        return self._by_peer.get(peer)

    def join(self, sid: bytes, peer: bytes, expires: float) -> tuple[Seat, bool]:
        """Seat a session, or its new connection; also whether its lanes start anew."""
        seat = self._seats.get(sid)
        if seat is None:
            taken = {other.slot for other in self._seats.values()}
            slot = next(number for number in range(len(taken) + 1) if number not in taken)
            seat = self._seats[sid] = Seat(sid, slot, 0, 0.0)
        anew = seat.peer is None
        if anew:
            self._incarnations[seat.slot] = seat.incarnation = self._incarnations.get(seat.slot, -1) + 1
        else:
            self._by_peer.pop(seat.peer or b"", None)
        seat.peer, seat.expires = peer, expires
        self._by_peer[peer] = seat
        return seat, anew

    def note(self, seat: Seat, stats: dict[str, float]) -> None:
        """Add what the actor's sums grew by. At first they may be of earlier sessions: a mark, no more."""
        before = stats if seat.stats is None else seat.stats
        for phase in self.phase_seconds:
            grown = stats.get(f"phase_{phase}", 0.0) - before.get(f"phase_{phase}", 0.0)
            self.phase_seconds[phase] += max(0.0, grown)
        seat.stats = stats

    def leave(self, seat: Seat) -> None:
        """Free the seat and its slot."""
        self._by_peer.pop(seat.peer or b"", None)
        del self._seats[seat.sid]

    def to_list(self, local: set[bytes]) -> list[object]:
        """For a checkpoint: sessions, and how often each slot was taken."""
        seats = [[seat.sid.hex(), seat.slot, seat.sid in local] for seat in self]
        return [seats, sorted(self._incarnations.items())]

    def restore(self, saved: list[list[list[object]]], expires: float) -> list[Seat]:
        """Take over `to_list`; returns the seats of sessions that ended with the earlier process."""
        seats, incarnations = saved
        self._incarnations = {int(str(slot)): int(str(number)) for slot, number in incarnations}
        ended = []
        for key, slot, local in seats:
            sid, number = bytes.fromhex(str(key)), int(str(slot))
            seat = self._seats[sid] = Seat(sid, number, self._incarnations[number], expires)
            if local:
                ended.append(seat)
        return ended
