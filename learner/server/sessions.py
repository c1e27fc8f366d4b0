"""The table of live sessions: slots, incarnations, connections and leases. Time comes in as `now`."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from common.protocol.messages import Phase

LEASE_SECONDS = 10.0
SETUP_SECONDS = 120.0  # an actor sends no messages while it builds environments or resets its lanes
RESTORED_SECONDS = 30.0  # for a session of an earlier generation to return
_STALL_SECONDS = 1.0  # a longer stall of the network thread extends every lease
_CRC_TRIES = 3  # damaged copies of a chunk that are requested again; the next one is dropped


@dataclass(slots=True)
class SessionRecord:
    """A live session. Written by `SessionTable` alone."""

    sid: bytes
    key: str  # public key that owns the session; empty without keys
    slot: int
    incarnation: int
    expires: float
    peer: bytes | None = None  # its connection; None if it was restored and has not returned yet
    host: str = ""  # as the actor names it
    produced_at_join: int = 0  # steps that it had produced when it joined this generation
    stats: dict[str, float] | None = None  # seconds by phase, of its newest heartbeat


class SessionTable:
    """Live sessions by id, connection and key. Owned by the network thread."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, SessionRecord] = {}
        self._by_peer: dict[bytes, SessionRecord] = {}
        self._by_key: Counter[str] = Counter()
        self._incarnations: dict[int, int] = {}
        self._free_slots: list[int] = []  # a heap of free slots below `_new_slot`
        self._new_slot = 0
        self._last_loop_at = 0.0
        self.phase_seconds = dict.fromkeys(get_args(Phase), 0.0)  # sums over all sessions

    def __iter__(self) -> Iterator[SessionRecord]:
        return iter(list(self._sessions.values()))

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, sid: bytes) -> SessionRecord | None:
        """Return the record of a session, or None."""
        return self._sessions.get(sid)

    def by_peer(self, peer: bytes) -> SessionRecord | None:
        """Return the session that uses a connection, or None."""
        return self._by_peer.get(peer)

    def connected(self) -> list[SessionRecord]:
        """Return the sessions with a connection to this process."""
        return [session for session in self if session.peer is not None]

    def count(self, key: str) -> int:
        """Return the number of sessions of one key."""
        return self._by_key[key]

    def join(
        self, sid: bytes, key: str, peer: bytes, host: str, produced: int, now: float
    ) -> tuple[SessionRecord, bool]:
        """Add a session, or its new connection; its lease covers the setup of environments.

        Returns:
            The session, and whether its lanes are reset.
        """
        session = self._sessions.get(sid)
        if session is None:
            session = self._sessions[sid] = SessionRecord(sid, key, self._take_slot(), 0, 0.0)
            self._by_key[key] += 1
        lanes_reset = session.peer is None
        if lanes_reset:
            session.incarnation = self._incarnations.get(session.slot, -1) + 1
            self._incarnations[session.slot] = session.incarnation
            session.produced_at_join = produced
        else:
            self._by_peer.pop(session.peer or b"", None)
        session.peer, session.host, session.expires = peer, host, now + SETUP_SECONDS
        self._by_peer[peer] = session
        return session, lanes_reset

    def remove(self, session: SessionRecord) -> None:
        """Remove a session and free its slot."""
        self._by_peer.pop(session.peer or b"", None)
        del self._sessions[session.sid]
        self._by_key[session.key] -= 1
        heapq.heappush(self._free_slots, session.slot)

    def add_phase_times(self, session: SessionRecord, stats: dict[str, float]) -> None:
        """Add the growth of an actor's phase times; the first ones, of earlier sessions, are the baseline."""
        before = stats if session.stats is None else session.stats
        for phase in self.phase_seconds:
            grown = stats.get(f"phase_{phase}", 0.0) - before.get(f"phase_{phase}", 0.0)
            self.phase_seconds[phase] += max(0.0, grown)
        session.stats = stats

    def _take_slot(self) -> int:
        """Return the smallest free slot."""
        if self._free_slots:
            return heapq.heappop(self._free_slots)
        self._new_slot += 1
        return self._new_slot - 1

    # Leases.

    def renew(self, session: SessionRecord, now: float, setup_ended: bool) -> None:
        """Renew the lease of a session that sent a message; during its setup the lease never gets shorter."""
        session.expires = now + LEASE_SECONDS if setup_ended else max(session.expires, now + LEASE_SECONDS)

    def allow_setup(self, now: float) -> None:
        """Give every connected session time to reset its lanes."""
        for session in self.connected():
            session.expires = max(session.expires, now + SETUP_SECONDS)

    def extend_by_stall(self, now: float) -> None:
        """Extend every lease by any stall of the network thread; call it once per loop."""
        stall = now - self._last_loop_at
        if self._last_loop_at and stall > _STALL_SECONDS:
            for session in self:
                session.expires += stall
        self._last_loop_at = now

    def expired(self, now: float) -> list[SessionRecord]:
        """Return the sessions whose lease has ended."""
        return [session for session in self if now > session.expires]

    # Checkpoints.

    def to_list(self, local: set[bytes]) -> list[object]:
        """Return the sessions and the newest incarnation of each slot, for a checkpoint."""
        sessions = [[session.sid.hex(), session.slot, session.sid in local] for session in self]
        return [sessions, sorted(self._incarnations.items())]

    def restore(
        self, saved: list[list[list[object]]], keys: Mapping[bytes, str], now: float
    ) -> list[SessionRecord]:
        """Restore `to_list`; `keys` are the public keys of the sessions.

        Returns:
            The local sessions, which ended with the earlier process.
        """
        sessions, incarnations = saved
        self._incarnations = {int(str(slot)): int(str(number)) for slot, number in incarnations}
        ended = []
        for name, slot, local in sessions:
            sid, number = bytes.fromhex(str(name)), int(str(slot))
            incarnation = self._incarnations[number]
            session = SessionRecord(sid, keys[sid], number, incarnation, now + RESTORED_SECONDS)
            self._sessions[sid] = session
            self._by_key[session.key] += 1
            if local:
                ended.append(session)
        taken = {session.slot for session in self}
        self._new_slot = max(taken, default=-1) + 1
        self._free_slots = [slot for slot in range(self._new_slot) if slot not in taken]  # sorted: a heap
        return ended


class FlowState:
    """The credit of a session and the state of its stream of chunks. Only its own methods change it."""

    def __init__(self) -> None:
        self.credit = 0  # offset up to which the session may collect steps
        self.steps_received = 0  # since it has its slot
        self._crc_failures = 0  # in a row
        self._decode_violation: str | None = None

    def raise_credit(self, offset: int) -> None:
        """Permit steps up to `offset`; credit never falls."""
        self.credit = max(self.credit, offset)

    def receive(self, steps: int) -> None:
        """Count new steps."""
        self.steps_received += steps

    def retry_damaged(self) -> bool:
        """Count a damaged copy of a chunk; returns whether the peer should send it again."""
        retry = self._crc_failures < _CRC_TRIES
        self._crc_failures += retry
        return retry

    def clear_damaged(self) -> None:
        """Forget the damaged copies of the chunk that was received."""
        self._crc_failures = 0

    def record_decode_violation(self, violation: str) -> None:
        """Keep a violation of a message that was already accepted, until the next message."""
        self._decode_violation = violation

    def take_decode_violation(self) -> list[str]:
        """Return the violation that was kept, if any, once."""
        taken = [] if self._decode_violation is None else [self._decode_violation]
        self._decode_violation = None
        return taken
