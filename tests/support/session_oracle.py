"""The rules of the protocol for one message: what it must cause, and how it changes the model of the run.

Written from docs/protocol.md, docs/security.md and the docstrings of `common.protocol.messages`; see
`tests.support.run_model`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from common.protocol import codec
from common.protocol import messages as m
from learner.server.admission import AdmissionResult
from tests.support.run_model import LEASE_SECONDS, SETUP_SECONDS, ModelSession, RunModel

_DAMAGED_COPIES = 3  # that are requested again


@dataclass
class Outcome:
    """What a message must cause."""

    replies: list[type[m.Message]] = field(default_factory=list)  # to its sender
    violations: int = 0
    admitted: bool = False


@dataclass(frozen=True)
class Delivery:
    """A message, its connection, and what admission made of it."""

    peer: bytes
    key: str
    message: m.Message
    result: AdmissionResult
    batch: int  # of the newest grant of the session
    now: float


def check(model: RunModel, delivery: Delivery) -> None:
    """Compare the result of a message with the rules, and change the model accordingly."""
    result, peer = delivery.result, delivery.peer
    sid = next((sid for sid, session in model.sessions.items() if session.peer == peer), None)
    if isinstance(delivery.message, m.Hello):
        outcome = _on_hello(model, delivery, delivery.message, sid)
    elif sid is None or getattr(delivery.message, "sid", None) != sid:
        outcome = Outcome([m.HelloRequired])
    else:
        outcome = _on_progress(model, delivery, model.sessions[sid])
    assert [type(reply) for _, reply in result.replies] == outcome.replies, (result.replies, outcome)
    assert {to for to, _ in result.replies} <= {peer}, "a reply to another connection"
    assert len(result.violations) == outcome.violations, (result.violations, outcome)
    assert len(result.chunks) == outcome.admitted, f"{len(result.chunks)} chunks admitted: {outcome}"
    assert [chunk.message for chunk in result.chunks] == [delivery.message] * outcome.admitted


def _on_hello(model: RunModel, delivery: Delivery, hello: m.Hello, other: bytes | None) -> Outcome:
    """A Hello; `other` is the session that uses its connection."""
    session, key, generation = model.sessions.get(hello.sid), delivery.key, hello.generation
    named = [model.sessions[sid] for sid in (hello.sid, *hello.former) if sid in model.sessions]
    false_history = hello.sid in hello.former or len(hello.former) > m.FORMER_SESSIONS
    if any(one.key != key for one in named) or false_history or not 0 <= hello.base <= hello.produced:
        return Outcome(violations=1)
    ended = session.closed if session is not None else generation == model.generation
    beyond_run = 0 <= generation != model.generation and hello.produced > model.limit_steps
    if ended or beyond_run or generation > model.generation:
        if session is not None and 0 <= generation < model.generation and not beyond_run:
            _count_former(model, hello.sid, key, hello.produced)
        return Outcome([m.Reject])
    if session is None and model.draining is not None:
        return Outcome([m.Drain])
    if session is None and sum(one.key == key for one in model.live().values()) >= model.sessions_per_key:
        return Outcome([m.Reject])
    false = other not in (None, hello.sid, *hello.former)
    false |= generation < 0 and hello.produced > model.chunk_steps
    if session is not None:
        false |= generation == model.generation and hello.base > session.settled
        false |= session.peer is not None and hello.produced > _most(model, session)
    if false:
        return Outcome(violations=1)
    for sid, produced in hello.former.items():
        if sid in model.live():
            model.sessions[sid].close("actor_lost")
        if model.generation > 0 and 0 < produced <= model.limit_steps:
            _count_former(model, sid, key, produced)
    _join(model.sessions.setdefault(hello.sid, ModelSession(key)), delivery, hello)
    return Outcome([m.Welcome])


def _join(session: ModelSession, delivery: Delivery, hello: m.Hello) -> None:
    session.claim(hello.produced)
    session.give_rest(hello.base, "learner_rollback")
    if session.peer is None:
        session.joined_steps = hello.produced
    session.peer, session.expires = delivery.peer, delivery.now + SETUP_SECONDS
    session.credit = max(session.credit, session.received)


def _count_former(model: RunModel, sid: bytes, key: str, produced: int) -> None:
    """Count the steps of a session that ended in an earlier generation, once."""
    session = model.sessions.setdefault(sid, ModelSession(key))
    if not session.closed or produced > session.produced:
        session.claim(produced)
        session.close("learner_rollback")


def _most(model: RunModel, session: ModelSession) -> int:
    """The most steps that a connected session can have produced."""
    return max(session.credit, session.joined_steps) + model.chunk_steps


def _on_progress(model: RunModel, delivery: Delivery, session: ModelSession) -> Outcome:
    """A message of the session that uses the connection."""
    message = delivery.message
    outcome = Outcome(violations=int(session.late_violation))
    session.late_violation = False
    damaged = isinstance(message, m.ChunkMessage) and codec.checksum(message) != message.crc
    if damaged and session.damaged_copies < _DAMAGED_COPIES:
        session.damaged_copies += 1
        outcome.replies.append(m.Resend)
        return outcome
    if not isinstance(message, m.ChunkMessage | m.Skip | m.Heartbeat | m.Bye) or _is_false(
        model, session, message
    ):
        outcome.violations += 1
        return outcome
    _renew(model, session, message, delivery.now)
    session.claim(message.produced)
    if isinstance(message, m.Bye):
        left = session.received == session.produced
        outcome.replies.append(m.ByeAck if left else m.Resend)
        if left:
            session.close("actor_shutdown")
    elif isinstance(message, m.ChunkMessage | m.Skip) and message.offset >= session.received:
        stop = message.offset + message.steps
        if message.offset > session.received or not session.is_free(message.offset, stop):
            outcome.replies.append(m.Resend)
            return outcome
        session.claim(stop)
        if isinstance(message, m.Skip):
            session.give(message.offset, stop, message.reason)
        else:
            _on_chunk(model, session, message, damaged, delivery, outcome)
    return outcome


def _is_false(
    model: RunModel, session: ModelSession, message: m.ChunkMessage | m.Skip | m.Heartbeat | m.Bye
) -> bool:
    """Whether a claim cannot be true."""
    if not isinstance(message, m.ChunkMessage | m.Skip):
        return message.produced > _most(model, session)
    claimed = max(message.produced, message.offset + message.steps)
    if message.offset < 0 or message.steps < 1 or claimed > _most(model, session):
        return True
    # After a restart an actor has the steps that it announced, and the rest of a chunk.
    return message.generation != model.generation and claimed > session.joined_steps + model.chunk_steps


def _renew(model: RunModel, session: ModelSession, message: m.Message, now: float) -> None:
    """Renew the lease; the time to set up environments ends with the first chunk of a policy."""
    plays = isinstance(message, m.ChunkMessage) and message.generation == model.generation
    if plays and message.version >= 0:  # type: ignore[union-attr]  # a chunk
        session.expires = 0.0
    session.expires = max(session.expires, now + LEASE_SECONDS)


def _on_chunk(
    model: RunModel,
    session: ModelSession,
    chunk: m.ChunkMessage,
    damaged: bool,
    delivery: Delivery,
    outcome: Outcome,
) -> None:
    """Decide on new steps; only a chunk of this generation that answers a grant is admitted."""
    stop, batch = chunk.offset + chunk.steps, delivery.batch
    session.damaged_copies = 0
    fate, answers = "old_generation", session.granted
    if chunk.generation == model.generation:
        session.granted = False
        if model.draining is not None:
            fate = model.ending
        elif damaged or stop > session.credit or chunk.steps != model.chunk_steps:
            fate = "invalid"
            outcome.violations += 1
        elif not answers:
            fate = "surplus"
        elif batch not in model.batches or not batch - model.config.max_lag <= chunk.version <= model.version:
            fate = "stale"
        elif model.batches[batch] >= model.batch_chunks or not delivery.result.chunks:
            fate = "surplus"  # the scheduler may keep free places for other keys
        else:
            fate = "pending"
            model.batches[batch] += 1
            outcome.admitted = True
    session.give(chunk.offset, stop, fate)
