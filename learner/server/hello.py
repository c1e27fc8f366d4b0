"""Decides on Hellos: which session is accepted, which former sessions end, and what the actor is told."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import common
from common.config import Config
from common.protocol import messages as m
from learner.server import sessions, validation
from learner.server.ledger import Account, Ledger
from learner.server.sessions import SessionRecord, SessionTable

HEARTBEAT_SECONDS = 2.0
_FULL_SECONDS = 10.0  # after which a session that was refused for lack of room tries again


@dataclass(frozen=True)
class LearnerTerms:
    """The facts of a learner process that every Hello is checked against, and that every Welcome tells."""

    config: Config
    generation: int
    target: bytes  # digest of the target network
    sessions_per_key: int

    @cached_property
    def body(self) -> bytes:
        """The configuration as JSON."""
        return self.config.to_json().encode()

    @cached_property
    def limit_steps(self) -> int:
        """See `validation.session_steps_limit`."""
        return validation.session_steps_limit(self.config)


@dataclass(frozen=True, slots=True)
class HelloDecision:
    """What follows from a Hello. It is accepted if there is neither a reply nor a violation."""

    reply: m.Reject | m.Drain | None = None
    violation: str | None = None  # what was expected: no honest actor sends this Hello, and there is no reply
    ended: tuple[tuple[bytes, int], ...] = ()  # sessions to end, and the steps that each is counted to


def decide_hello(
    hello: m.Hello,
    key: str,
    other: SessionRecord | None,
    limit_steps: int | None,
    ledger: Ledger,
    table: SessionTable,
    terms: LearnerTerms,
    draining: m.Drain | None,
) -> HelloDecision:
    """Decide on a Hello; changes nothing.

    Args:
        hello: the message.
        key: the public key of its connection.
        other: the session that used the connection before.
        limit_steps: the most steps that the session can have produced; None if it has no connection.
        ledger, table: read only.
        terms: the learner's.
        draining: the Drain that was sent, if the learner ends.
    """
    if not all(ledger.may_use(sid, key) for sid in (hello.sid, *hello.former)):
        return HelloDecision(
            violation="expected sessions of the key of the connection, got one of another key"
        )
    account, session = ledger.accounts.get(hello.sid), table.get(hello.sid)
    violation = validation.history_violation(hello)
    if violation is not None:
        return HelloDecision(violation=violation)
    closed = account.closed if account is not None else None
    if validation.session_ended(hello, terms.generation, closed, terms.limit_steps):
        return _ended(hello, account, terms)
    if session is None and draining is not None:
        return HelloDecision(draining)  # known sessions are accepted, so that they can send Bye
    if session is None and table.count(key) >= terms.sessions_per_key:
        text = f"expected at most {terms.sessions_per_key} sessions of a key: raise --sessions-per-key"
        return HelloDecision(m.Reject(code="full", text=text, retry_after_ms=int(_FULL_SECONDS * 1000)))
    violation = validation.hello_violation(
        hello,
        terms.generation,
        account.settled if account is not None else None,
        other.sid if other is not None else None,
        limit_steps,
        terms.config.rollout.chunk_steps,
    )
    return HelloDecision(violation=violation, ended=_former_sessions(hello, terms))


def _ended(hello: m.Hello, account: Account | None, terms: LearnerTerms) -> HelloDecision:
    """Tell an actor that its session was closed.

    A session that an earlier generation knew is counted to its end first: a checkpoint has fewer steps
    than the actor made.
    """
    counted: tuple[tuple[bytes, int], ...] = ()
    produced = hello.produced
    if account is not None and hello.produced <= terms.limit_steps:
        produced = account.produced
        if 0 <= hello.generation < terms.generation:
            produced = max(produced, hello.produced)
            counted = ((hello.sid, produced),)
    text = "the session was closed: begin a new one"
    return HelloDecision(m.Reject(code="lost", text=text, sid=hello.sid, produced=produced), ended=counted)


def _former_sessions(hello: m.Hello, terms: LearnerTerms) -> tuple[tuple[bytes, int], ...]:
    """The former sessions of an actor, and the steps that each is counted to.

    The first generation of a run has counted them: 0. A later one may have restarted from a checkpoint
    that is older than their end. A number that no session of the run can reach belongs to another run: 0.
    """
    limit_steps = terms.limit_steps if terms.generation > 0 else 0
    return tuple(
        (sid, produced if 0 < produced <= limit_steps else 0) for sid, produced in hello.former.items()
    )


def welcome(
    session: SessionRecord, account: Account, credit: int, version: int, terms: LearnerTerms
) -> m.Welcome:
    """The Welcome of an accepted session; `version` is the newest bundle."""
    return m.Welcome(
        sid=session.sid,
        generation=terms.generation,
        slot=session.slot,
        incarnation=session.incarnation,
        received=account.received,
        settled=account.settled,
        credit=credit,
        version=version,
        target=terms.target,
        heartbeat_ms=int(HEARTBEAT_SECONDS * 1000),
        lease_ms=int(sessions.LEASE_SECONDS * 1000),
        software=common.__version__,
        body=terms.body,
    )
