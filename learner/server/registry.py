"""The sessions of a learner process, their credit and their steps, which change together.

A pure state machine without sockets: time comes in as `now`, and methods return the replies to send. Owned by
the network thread.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Mapping
from typing import Literal, get_args

from common.config import Config
from common.protocol import messages as m
from common.protocol.chunk import WARMUP_VERSION
from learner.interface import Verdict
from learner.server import sessions
from learner.server.ledger import Ledger
from learner.server.scheduler import GrantScheduler
from learner.server.sessions import FlowState, SessionRecord, SessionTable
from learner.server.status import SessionStatus

_EXPIRY_SECONDS = 0.1  # between two checks of every lease

Replies = list[tuple[bytes, m.Message]]  # each with the routing id of its peer
SessionEvent = Literal["join", "leave", "lost", "revoked", "full", "restricted"]


class SessionRegistry:
    """Sessions, credit and the step ledger of a learner process."""

    def __init__(self, config: Config, generation: int) -> None:
        self.config, self.generation = config, generation
        self.ledger = Ledger()
        self.sessions = SessionTable()
        self.scheduler = GrantScheduler(config)
        self.flows: dict[bytes, FlowState] = {}
        self.first_credit_at: float | None = None
        self.events: Counter[str] = Counter(dict.fromkeys(get_args(SessionEvent), 0))
        self.draining: m.Drain | None = None  # what every session was sent, if the learner ends
        self._unacknowledged: dict[bytes, SessionRecord] = {}
        self._checked_at = 0.0

    # Requests of the trainer and the main thread.

    def open(self, version: int, now: float) -> None:
        """Hand out credit for the batch of `version`, just published, and for the next `max_lag` batches."""
        if self.scheduler.version == WARMUP_VERSION:  # after the warm-up every actor resets its lanes
            self.sessions.allow_setup(now)
        self.scheduler.open(version)
        self.grant(now)

    def reopen(self, chunks: int, now: float) -> None:
        """Hand out credit for `chunks` more chunks of the present batch, because its update failed."""
        self.scheduler.withdraw(self.scheduler.version, chunks)
        self.grant(now)

    def settle(self, chunks: list[tuple[bytes, int]], verdict: Verdict) -> None:
        """Record chunks as trained or dropped; each is given by its session and offset."""
        for sid, offset in chunks:
            self.ledger.settle(sid, offset, verdict)

    def reject_chunk(self, sid: bytes, offset: int, batch: int, now: float) -> None:
        """Record a chunk that could not be decoded as invalid, and grant another one for its batch."""
        self.ledger.settle(sid, offset, "invalid")
        self.scheduler.withdraw(batch)
        self.scheduler.keys.add_failure(self.ledger.accounts[sid].key, now)
        if sid in self.flows:
            self.flows[sid].record_decode_violation("expected a chunk of this run, got an unreadable one")
        self.grant(now)

    def drop(self, sid: bytes, offset: int, reason: m.Reason) -> None:
        """Record steps of an earlier generation, or skipped ones, as dropped when they arrive.

        They use no grant: a session that holds one gets credit for a whole chunk after them.
        """
        self.ledger.settle(sid, offset, reason)
        if self.scheduler.is_collecting(sid):
            self.raise_credit(sid)

    def drain(self, finished: bool) -> Replies:
        """Ask every session to leave; grant nothing more."""
        self.draining = m.Drain(finished=finished)
        self.scheduler.close()
        return [(session.peer, self.draining) for session in self.sessions if session.peer is not None]

    def close_remaining(self) -> None:
        """Close every session that has not left, and settle its steps."""
        assert self.draining is not None
        reason = ending_reason(self.draining)
        for sid, account in self.ledger.accounts.items():
            for start in list(account.pending):
                self.ledger.settle(sid, start, reason)
        for session in self.sessions:
            self.close_session(session, reason)

    def local_actor_exited(self, sid: bytes, produced: int) -> None:
        """Close the session of a local actor whose process ended after `produced` steps."""
        session = self.sessions.get(sid)
        if session is not None:
            self.ledger.announce(sid, produced)
            self.close_session(session, "actor_lost")
            self.count_event("lost")

    def revoke(self, authorised: Container[str]) -> None:
        """Close the sessions of keys that are not authorised; chunks that arrived before are trained."""
        for session in self.sessions:
            if session.key and session.key not in authorised:
                self.revoke_session(session)

    def revoke_session(self, session: SessionRecord) -> None:
        """Close one session because its key or its connection is no longer accepted."""
        self.close_session(session, "revoked")
        self.count_event("revoked")

    def count_event(self, event: SessionEvent) -> None:
        """Count an event of a session for the metrics."""
        self.events[event] += 1

    # Time, credit and acknowledgements.

    def tick(self, now: float) -> None:
        """Close expired sessions and grant overdue chunks to others; call it after all messages are read."""
        self.sessions.extend_by_stall(now)
        if now - self._checked_at < _EXPIRY_SECONDS:
            return
        self._checked_at = now
        for session in self.sessions.expired(now):
            self.close_session(session, "actor_lost")
            self.count_event("lost")
        self.grant(now)

    def grant(self, now: float) -> None:
        """Grant chunks of open batches to idle sessions, and raise their credit."""
        for sid in self.scheduler.grant(now):
            session = self.sessions.get(sid)
            assert session is not None
            self.raise_credit(sid)
            if self.first_credit_at is None and self.scheduler.version > WARMUP_VERSION:
                self.first_credit_at = now
            self.schedule_ack(session)

    def raise_credit(self, sid: bytes) -> None:
        """Permit one chunk after the steps that a session has produced."""
        account = self.ledger.accounts[sid]
        start = max(account.received, account.produced)
        self.flows[sid].raise_credit(start + self.config.rollout.chunk_steps)

    def take_restricted(self) -> list[str]:
        """Return the keys that were restricted since the last call, and count them."""
        keys = list(self.scheduler.keys.newly_restricted)
        self.scheduler.keys.newly_restricted.clear()
        for _ in keys:
            self.count_event("restricted")
        return keys

    def schedule_ack(self, session: SessionRecord) -> None:
        """Include a session in the next `acknowledge`."""
        self._unacknowledged[session.sid] = session

    def acknowledge(self) -> Replies:
        """Return one Ack for each session that progressed since the last call; called once per loop."""
        replies: Replies = []
        for sid, session in self._unacknowledged.items():
            account = self.ledger.accounts[sid]
            self.scheduler.announce(sid)
            ack = m.Ack(
                generation=self.generation,
                received=account.received,
                settled=account.settled,
                credit=self.flows[sid].credit,
                version=self.scheduler.version,
            )
            if session.peer is not None:
                replies.append((session.peer, ack))
        self._unacknowledged.clear()
        return replies

    def close_session(self, session: SessionRecord, reason: m.Reason) -> None:
        """Close a session: steps that never arrived are dropped for `reason`, and its slot becomes free."""
        self._unacknowledged.pop(session.sid, None)
        self.ledger.close_session(session.sid, reason)
        self.scheduler.remove(session.sid)
        self.sessions.remove(session)
        self.flows.pop(session.sid, None)

    def lease_ages(self, now: float) -> dict[bytes, float]:
        """Return the seconds since each connected session renewed its lease; 0 during setup."""
        connected = self.sessions.connected()
        return {x.sid: max(0.0, now + sessions.LEASE_SECONDS - x.expires) for x in connected}

    def session_statuses(
        self, now: float, slots: int, key_names: Mapping[str, str]
    ) -> tuple[SessionStatus, ...]:
        """Return the connected sessions of the first slots, with the names of their keys."""
        ages = self.lease_ages(now)
        return tuple(
            SessionStatus(
                x.slot,
                x.host,
                x.incarnation,
                self.flows[x.sid].steps_received,
                self.scheduler.is_collecting(x.sid),
                ages[x.sid],
                key_names.get(x.key, "no key"),
            )
            for x in self.sessions.connected()
            if x.slot < slots
        )

    # Checkpoints.

    def to_json(self, local: set[bytes]) -> str:
        """Return ledger and sessions as JSON; the sessions in `local` end with this process."""
        return json.dumps({"ledger": self.ledger.to_json(), "sessions": self.sessions.to_list(local)})

    def restore(self, text: str, now: float) -> None:
        """Continue from `to_json` of an earlier generation."""
        data = json.loads(text)
        self.ledger = Ledger.from_json(data["ledger"])
        keys = {sid: account.key for sid, account in self.ledger.accounts.items()}
        for session in self.sessions.restore(data["sessions"], keys, now):
            self.close_session(session, "actor_lost")


def ending_reason(drain: m.Drain) -> m.Reason:
    """Return why chunks that arrive after a Drain are dropped."""
    return "run_finished" if drain.finished else "learner_shutdown"
