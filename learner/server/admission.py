"""The protocol's decisions: which sessions are accepted, and which chunks are trained on.

A pure state machine without sockets: time comes in as `now`, and each message returns what to send, which
chunks to train on and which violations to count. Owned by the network thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from common.config import Config
from common.protocol import codec
from common.protocol import messages as m
from learner.server import validation
from learner.server.hello import LearnerTerms, decide_hello, welcome
from learner.server.ledger import Receipt
from learner.server.rate_limit import SESSIONS_PER_KEY
from learner.server.registry import Replies, SessionRegistry, ending_reason
from learner.server.scheduler import AdmittedChunk
from learner.server.sessions import FlowState, SessionRecord


@dataclass(slots=True)
class AdmissionResult:
    """Replies, admitted chunks and violations that one message causes."""

    replies: Replies = field(default_factory=list)
    chunks: list[AdmittedChunk] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)  # the rules that the message breaks


class Admission:
    """Handles the messages of actors.

    Args:
        config: the configuration of the run.
        generation: number of earlier learner processes of the run.
        target_digest: SHA-256 digest of the target network, 32 bytes.
        sessions_per_key: the most sessions that one key may have at a time.
    """

    def __init__(
        self, config: Config, generation: int, target_digest: bytes, sessions_per_key: int = SESSIONS_PER_KEY
    ) -> None:
        self._terms = LearnerTerms(config, generation, target_digest, sessions_per_key)
        self._chunk_steps = config.rollout.chunk_steps
        self.registry = SessionRegistry(config, generation)
        self.duplicates = 0  # chunks received a second time

    def on(self, peer: bytes, message: m.Message, now: float, key: str = "") -> AdmissionResult:
        """Handle one message of the data port. A session that is not known is asked for a Hello.

        Args:
            peer: routing id of the connection.
            message: what the peer sent.
            now: the present time in seconds.
            key: public key of the connection, empty without keys.
        """
        result = AdmissionResult()
        session = self.registry.sessions.by_peer(peer)
        if isinstance(message, m.Hello):
            self._on_hello(peer, message, now, key, result)
        elif session is None or getattr(message, "sid", None) != session.sid:
            result.replies.append((peer, m.HelloRequired(generation=self.registry.generation)))
        else:
            self._on_progress(session, message, now, result)
        return result

    def _on_progress(
        self, session: SessionRecord, message: m.Message, now: float, result: AdmissionResult
    ) -> None:
        """Handle a message of a connected session; a violation is recorded and changes nothing.

        The checksum of a chunk is checked first, because each field of a damaged copy may be wrong: the copy
        counts as not received, so the same steps can arrive again. After three copies the chunk is received
        and dropped.
        """
        flow = self.registry.flows[session.sid]
        result.violations += flow.take_decode_violation()
        damaged = isinstance(message, m.ChunkMessage) and codec.checksum(message) != message.crc
        if damaged and flow.retry_damaged():
            _reply(result, session, m.Resend(offset=self.registry.ledger.accounts[session.sid].received))
            return
        credit = validation.usable_credit(message, flow.credit, self.registry.generation)
        limit_steps = validation.produced_limit(credit, session.produced_at_join, self._chunk_steps)
        violation = validation.progress_violation(message, limit_steps)
        if violation is not None:
            result.violations.append(violation)
            return
        setup_ended = validation.ends_setup(message, self.registry.generation)
        self.registry.sessions.renew(session, now, setup_ended)
        match message:
            case m.ChunkMessage():
                self._on_chunk(session, message, damaged, now, result)
            case m.Skip():
                if self._receive(session, message, result):
                    self.registry.drop(session.sid, message.offset, message.reason)
            case m.Heartbeat():
                self.registry.ledger.announce(session.sid, message.produced)
                self.registry.sessions.add_phase_times(session, validation.valid_phase_times(message.stats))
            case m.Bye():
                self._on_bye(session, message, result)
                return
        self.registry.schedule_ack(session)

    def _on_hello(self, peer: bytes, hello: m.Hello, now: float, key: str, result: AdmissionResult) -> None:
        """Accept, refuse or ignore a session.

        Sessions that the Hello reports as ended are closed first, which frees their grants for this one.
        """
        known, other = self.registry.sessions.get(hello.sid), self.registry.sessions.by_peer(peer)
        limit_steps = None
        if known is not None and known.peer is not None:
            credit = self.registry.flows[hello.sid].credit
            limit_steps = validation.produced_limit(credit, known.produced_at_join, self._chunk_steps)
        decision = decide_hello(
            hello,
            key,
            other,
            limit_steps,
            self.registry.ledger,
            self.registry.sessions,
            self._terms,
            self.registry.draining,
        )
        if decision.violation is not None:
            result.violations.append(decision.violation)
            return
        for sid, produced in decision.ended:
            former = self.registry.sessions.get(sid)
            if former is not None:  # a delayed Hello of it came after a restart
                self.registry.close_session(former, "actor_lost")
            if produced:
                self.registry.ledger.close_at(sid, key, produced)
        if decision.reply is not None:
            if isinstance(decision.reply, m.Reject) and decision.reply.code == "full":
                self.registry.count_event("full")
            result.replies.append((peer, decision.reply))
            return
        account = self.registry.ledger.open(hello.sid, key)
        self.registry.ledger.announce(hello.sid, hello.produced)
        self.registry.ledger.rollback(hello.sid, hello.base)
        session, lanes_reset = self.registry.sessions.join(
            hello.sid, key, peer, hello.host, hello.produced, now
        )
        if lanes_reset:
            self.registry.count_event("join")
        self.registry.scheduler.add(hello.sid, session.slot, key)
        flow = self.registry.flows.setdefault(hello.sid, FlowState())
        flow.raise_credit(account.received)
        self.registry.grant(now)
        self.registry.scheduler.announce(hello.sid)
        accepted = welcome(session, account, flow.credit, self.registry.scheduler.version, self._terms)
        result.replies.append((peer, accepted))

    def _on_chunk(
        self,
        session: SessionRecord,
        chunk: m.ChunkMessage,
        damaged: bool,
        now: float,
        result: AdmissionResult,
    ) -> None:
        """Admit a chunk to its batch, or record why it is dropped."""
        flow = self.registry.flows[session.sid]
        if not self._receive(session, chunk, result):
            return
        flow.clear_damaged()
        scheduler = self.registry.scheduler
        answers = chunk.generation == self.registry.generation and scheduler.is_answer(session.sid)
        batch = scheduler.batch_of(session.sid)
        reason = self._drop_reason(session, chunk, batch, damaged, answers)
        if reason == "invalid":
            result.violations.append("expected an undamaged, full chunk within its credit, got another")
        if answers:
            scheduler.end_grant(session.sid, reason is None, now)
        if reason == "old_generation":
            self.registry.drop(session.sid, chunk.offset, reason)
        elif reason is not None:
            self.registry.ledger.settle(session.sid, chunk.offset, reason)
        else:
            result.chunks.append(AdmittedChunk(batch, session.slot, session.incarnation, chunk))
        self.registry.grant(now)

    def _drop_reason(
        self, session: SessionRecord, chunk: m.ChunkMessage, batch: int, damaged: bool, answers: bool
    ) -> m.Reason | None:
        """Return why a chunk is dropped, or None if its batch admits it; a grant is for one chunk."""
        if chunk.generation != self.registry.generation:
            return "old_generation"
        if self.registry.draining is not None:
            return ending_reason(self.registry.draining)
        beyond_credit = chunk.offset + chunk.steps > self.registry.flows[session.sid].credit
        if damaged or beyond_credit or chunk.steps != self._chunk_steps:
            return "invalid"
        if not answers:
            return "surplus"
        return self.registry.scheduler.admit(batch, chunk.version, session.key)

    def _receive(
        self, session: SessionRecord, message: m.ChunkMessage | m.Skip, result: AdmissionResult
    ) -> bool:
        """Record the arrival of steps; return whether they are new. A gap is answered with a Resend."""
        start, stop = message.offset, message.offset + message.steps
        self.registry.ledger.announce(session.sid, message.produced)
        receipt = self.registry.ledger.receive(session.sid, start, stop)
        if receipt is Receipt.GAP:
            _reply(result, session, m.Resend(offset=self.registry.ledger.accounts[session.sid].received))
        self.duplicates += receipt is Receipt.DUPLICATE
        if receipt is Receipt.NEW:
            self.registry.flows[session.sid].receive(message.steps)
        return receipt is Receipt.NEW

    def _on_bye(self, session: SessionRecord, bye: m.Bye, result: AdmissionResult) -> None:
        self.registry.ledger.announce(session.sid, bye.produced)
        account = self.registry.ledger.accounts[session.sid]
        if account.announced:
            _reply(result, session, m.Resend(offset=account.received))
            return
        _reply(result, session, m.ByeAck())
        self.registry.close_session(session, "actor_shutdown")
        self.registry.count_event("leave")

    def expel(self, peer: bytes, text: str) -> Replies:
        """Close the session of a connection, which frees its slot; return the reply that gives the reason."""
        session = self.registry.sessions.by_peer(peer)
        if session is None:
            return []
        self.registry.revoke_session(session)
        produced = self.registry.ledger.accounts[session.sid].produced
        return [(peer, m.Reject(code="lost", text=text, sid=session.sid, produced=produced))]


def _reply(result: AdmissionResult, session: SessionRecord, message: m.Message) -> None:
    if session.peer is not None:
        result.replies.append((session.peer, message))
