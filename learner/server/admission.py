"""Who plays, how far, and what becomes of what arrives: the protocol's decisions, without sockets.

A pure state machine: time comes in as `now`; replies, admitted chunks and offences go out as lists.
Owned by the network thread.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Container

from common.config import Config
from common.protocol import messages as m
from common.protocol.chunk import WARMUP_VERSION
from learner.interface import Verdict
from learner.server import leases, validation
from learner.server.hello import Terms, Violation, former_sessions, refusal, welcome
from learner.server.leases import Leases
from learner.server.ledger import Ledger, Receipt
from learner.server.rate_limit import SESSIONS_PER_KEY
from learner.server.scheduler import AdmittedChunk, GrantScheduler
from learner.server.sessions import SessionRecord, SessionTable

_LOOK_SECONDS = 0.1  # between two looks at every lease
_CRC_TRIES = 3


class Admission:
    """SessionTable, credit and the ledger. `sessions_per_key`: how many one key may have at a time."""

    def __init__(
        self, config: Config, generation: int, target: bytes, sessions_per_key: int = SESSIONS_PER_KEY
    ) -> None:
        self.config, self.generation = config, generation
        self._terms = Terms(config, generation, target, sessions_per_key)
        self.ledger = Ledger()
        self.seats = SessionTable()
        self._leases = Leases(self.seats)
        self.credit = GrantScheduler(config)
        self.first_credit_at: float | None = None
        self._looked = 0.0
        self._draining: m.Drain | None = None
        self.replies: list[tuple[bytes, m.Message]] = []
        self._owed: dict[bytes, SessionRecord] = {}  # an Ack, by session
        self.arrivals: list[AdmittedChunk] = []
        self.offences: list[str] = []  # in the newest message: what no honest actor says
        self.events: Counter[str] = Counter(join=0, leave=0, lost=0, revoked=0, full=0)
        self.duplicates = 0

    # What the trainer asks for.

    def open(self, version: int, now: float) -> None:
        """Bundle `version` is published: hand out credit for its batch, and for `max_lag` more."""
        if self.credit.version == WARMUP_VERSION:  # random play is over: every lane starts anew
            self._leases.set_up(now)
        self.credit.open(version)
        self._grant(now)

    def reopen(self, now: float) -> None:
        """The batch of the present version could not be used: ask for another one."""
        self.credit.reopen()
        self._grant(now)

    def settle(self, chunks: list[tuple[bytes, int]], verdict: Verdict) -> None:
        """Book chunks, named by session and offset."""
        for sid, offset in chunks:
            self.ledger.settle(sid, offset, verdict)

    def refuse(self, sid: bytes, offset: int, batch: int, now: float) -> None:
        """A chunk whose body could not be read: book it, and offer its place again."""
        self.ledger.settle(sid, offset, "invalid")
        self.credit.refuse(batch)
        seat = self.seats.get(sid)
        if seat is not None:
            seat.offence = "expected a chunk of this run, got an unreadable one"
        self._grant(now)

    def drain(self, finished: bool) -> None:
        """Ask every session to leave; no more credit."""
        self._draining = m.Drain(finished=finished)
        self.credit.close()
        self.replies += [(seat.peer, self._draining) for seat in self.seats if seat.peer is not None]

    def close_remaining(self) -> None:
        """Close the books on whoever has not left."""
        assert self._draining is not None
        reason = _ending(self._draining)
        for sid, account in self.ledger.accounts.items():
            for start in list(account.pending):
                self.ledger.settle(sid, start, reason)
        for seat in self.seats:
            self._remove(seat, reason)

    def lost(self, sid: bytes, produced: int) -> None:
        """A local actor's process ended; `produced` is what it had counted."""
        seat = self.seats.get(sid)
        if seat is not None:
            self.ledger.announce(sid, produced)
            self._remove(seat, "actor_lost")
            self.events["lost"] += 1

    def revoke(self, authorised: Container[str]) -> None:
        """End the sessions of keys that are not authorised; what arrived before is trained."""
        for seat in self.seats:
            if seat.key and seat.key not in authorised:
                self._revoke(seat)

    def _revoke(self, seat: SessionRecord) -> None:
        self._remove(seat, "revoked")
        self.events["revoked"] += 1

    def expel(self, peer: bytes, text: str) -> None:
        """End the session of a connection, so that its place is offered to another; tell it why."""
        seat = self.seats.heard_on(peer)
        if seat is not None:
            self._revoke(seat)
            produced = self.ledger.accounts[seat.sid].produced
            self.replies.append((peer, m.Reject(code="lost", text=text, sid=seat.sid, produced=produced)))

    # What sessions say.

    def on(self, peer: bytes, message: m.Message, now: float, key: str = "") -> None:
        """Take in one message from the data port; `key` is the public key of its connection."""
        if isinstance(message, m.Hello):
            self._on_hello(peer, message, now, key)
            return
        seat = self.seats.heard_on(peer)
        if seat is None or getattr(message, "sid", None) != seat.sid:
            self.replies.append((peer, m.HelloRequired(generation=self.generation)))
            return
        self._offends(seat.offence)
        seat.offence = None
        if self._offends(validation.progress_violation(message, seat, self.config.rollout.chunk_steps)):
            return
        self._leases.renew(seat, now, validation.plays(message, self.generation))
        match message:
            case m.ChunkMessage():
                self._on_chunk(seat, message, now)
            case m.Skip():
                self._on_skip(seat, message)
            case m.Heartbeat():
                self.ledger.announce(seat.sid, message.produced)
                self.seats.note(seat, validation.valid_phase_times(message.stats))
            case m.Bye():
                self._on_bye(seat, message, peer)
                return
        self._owed[seat.sid] = seat

    def _on_hello(self, peer: bytes, hello: m.Hello, now: float, key: str) -> None:
        try:
            answer = refusal(hello, key, peer, self.ledger, self.seats, self._terms, self._draining)
        except Violation as violation:
            self._offends(str(violation))
            return
        if answer is not None:
            self.events["full"] += isinstance(answer, m.Reject) and answer.code == "full"
            self.replies.append((peer, answer))
            return
        for sid, produced in former_sessions(hello, self._terms):
            former = self.seats.get(sid)  # none, unless a delayed Hello of it came after a restart
            if former is not None:
                self._remove(former, "actor_lost")
            if produced:
                self.ledger.extend(sid, key, produced)
        self.ledger.open(hello.sid, key)
        self.ledger.announce(hello.sid, hello.produced)
        self.ledger.rollback(hello.sid, hello.base)
        seat, lanes_reset = self.seats.join(hello.sid, key, peer, now + leases.SETUP_SECONDS)
        self.events["join"] += lanes_reset
        seat.returned, seat.host = hello.produced if lanes_reset else seat.returned, hello.host
        self.credit.seated(seat)
        account = self.ledger.accounts[hello.sid]
        seat.credit = max(seat.credit, account.received)
        self._grant(now)
        self.replies.append((peer, welcome(seat, account, self.credit.version, self._terms)))

    def _on_chunk(self, seat: SessionRecord, chunk: m.ChunkMessage, now: float) -> None:
        damaged = zlib.crc32(chunk.body) != chunk.crc
        if damaged and seat.bad_crcs < _CRC_TRIES:
            seat.bad_crcs += 1
            self._reply(seat, m.Resend(offset=chunk.offset))
            return
        if not self._receive(seat, chunk.offset, chunk.steps, chunk.produced):
            return
        seat.bad_crcs = 0
        self.credit.chunk_received(seat, now)
        reason = self._judge(chunk, seat, damaged)
        if reason == "invalid":
            self._offends("expected a whole, undamaged chunk within credit, got another")
        if reason is not None:
            self.ledger.settle(seat.sid, chunk.offset, reason)
        else:
            self.arrivals.append(AdmittedChunk(seat.batch, seat.slot, seat.incarnation, chunk))
        self._grant(now)

    def _judge(self, chunk: m.ChunkMessage, seat: SessionRecord, damaged: bool) -> m.Reason | None:
        if chunk.generation != self.generation:
            return "old_generation"
        if self._draining is not None:
            return _ending(self._draining)
        uncalled = chunk.offset + chunk.steps > seat.credit
        if damaged or uncalled or chunk.steps != self.config.rollout.chunk_steps:
            return "invalid"
        return self.credit.admit(seat.batch, chunk.version)

    def _on_skip(self, seat: SessionRecord, skip: m.Skip) -> None:
        if self._receive(seat, skip.offset, skip.steps, skip.produced):
            self.ledger.settle(seat.sid, skip.offset, skip.reason)
            seat.credit += skip.steps

    def _receive(self, seat: SessionRecord, offset: int, steps: int, produced: int) -> bool:
        """Enter steps that arrived; False, with the right reply, if they are not new."""
        self.ledger.announce(seat.sid, produced)
        receipt = self.ledger.receive(seat.sid, offset, offset + steps)
        if receipt is Receipt.GAP:
            self._reply(seat, m.Resend(offset=self.ledger.accounts[seat.sid].received))
        self.duplicates += receipt is Receipt.DUPLICATE
        seat.steps += steps if receipt is Receipt.NEW else 0
        return receipt is Receipt.NEW

    def _on_bye(self, seat: SessionRecord, bye: m.Bye, peer: bytes) -> None:
        self.ledger.announce(seat.sid, bye.produced)
        account = self.ledger.accounts[seat.sid]
        if account.announced:
            self._reply(seat, m.Resend(offset=account.received))
            return
        self._remove(seat, "actor_shutdown")
        self.events["leave"] += 1
        self.replies.append((peer, m.ByeAck()))

    # Time.

    def tick(self, now: float) -> None:
        """Give up silent sessions and offer overdue places; call it once the socket is drained."""
        self._leases.turn(now)
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        for seat in self._leases.silent(now):
            self._remove(seat, "actor_lost")
            self.events["lost"] += 1
        self._grant(now)

    def acknowledge(self) -> None:
        """Tell every session how far it is if that changed; once a turn, so that one Ack says it all."""
        for sid, seat in self._owed.items():
            account = self.ledger.accounts[sid]
            ack = m.Ack(
                generation=self.generation,
                received=account.received,
                settled=account.settled,
                credit=seat.credit,
                version=self.credit.version,
            )
            self._reply(seat, ack)
        self._owed.clear()

    def _grant(self, now: float) -> None:
        for seat in self.credit.grant(now):
            account = self.ledger.accounts[seat.sid]
            seat.credit = max(account.received, account.produced) + self.config.rollout.chunk_steps
            if self.first_credit_at is None and self.credit.version > WARMUP_VERSION:
                self.first_credit_at = now
            self._owed[seat.sid] = seat

    def _reply(self, seat: SessionRecord, message: m.Message) -> None:
        if seat.peer is not None:
            self.replies.append((seat.peer, message))

    def _offends(self, text: str | None) -> bool:
        if text is not None:
            self.offences.append(text)
        return text is not None

    def _remove(self, seat: SessionRecord, reason: m.Reason) -> None:
        self._owed.pop(seat.sid, None)
        self.ledger.close_session(seat.sid, reason)
        self.credit.remove(seat)
        self.seats.leave(seat)

    # Checkpoints.

    def to_json(self, local: set[bytes]) -> str:
        """Books and seats; `local` sessions end with this process and are known to be gone later."""
        return json.dumps({"ledger": self.ledger.to_json(), "seats": self.seats.to_list(local)})

    def restore(self, text: str, now: float) -> None:
        """Take over the books of an earlier generation."""
        data = json.loads(text)
        self.ledger = Ledger.from_json(data["ledger"])
        owners = {sid: account.key for sid, account in self.ledger.accounts.items()}
        for seat in self.seats.restore(data["seats"], owners, now + leases.RESTORED_SECONDS):
            self._remove(seat, "actor_lost")


def _ending(drain: m.Drain) -> m.Reason:
    return "run_finished" if drain.finished else "learner_shutdown"
