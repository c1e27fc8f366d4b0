"""Decides on Hello messages: which session is accepted, and which former sessions end."""

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
_FULL_SECONDS = 10.0  # after which a session beyond the limit of its key tries again


@dataclass(frozen=True)
class LearnerTerms:
    """What a learner process checks every Hello against, and what it sends in every Welcome."""

    config: Config
    generation: int
    target_digest: bytes
    sessions_per_key: int

    @cached_property
    def body(self) -> bytes:
        """The configuration as JSON."""
        return self.config.to_json().encode()

    @cached_property
    def session_limit_steps(self) -> int:
        """The result of `validation.session_steps_limit`."""
        return validation.session_steps_limit(self.config)


@dataclass(frozen=True, slots=True)
class HelloDecision:
    """What to do about a Hello. It is accepted if there is neither a reply nor a violation."""

    reply: m.Reject | m.Drain | None = None
    violation: str | None = None  # the rule that the message breaks; it gets no reply
    ended: tuple[tuple[bytes, int], ...] = ()  # sessions to close, each with its produced steps or 0


def decide_hello(
    hello: m.Hello,
    key: str,
    other: SessionRecord | None,
    produced_limit_steps: int | None,
    ledger: Ledger,
    table: SessionTable,
    terms: LearnerTerms,
    draining: m.Drain | None,
) -> HelloDecision:
    """Return the decision on a Hello.

    Args:
        hello: the message.
        key: the public key of its connection.
        other: the session that used the connection before.
        produced_limit_steps: the most steps that the session can have produced; None if it has no connection.
        ledger, table: the sessions so far; only read.
        terms: those of this learner process.
        draining: the Drain that every session was sent, if the learner ends.
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
    if validation.session_ended(hello, terms.generation, closed, terms.session_limit_steps):
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
        produced_limit_steps,
        terms.config.rollout.chunk_steps,
    )
    return HelloDecision(violation=violation, ended=_former_sessions(hello, terms))


def _ended(hello: m.Hello, account: Account | None, terms: LearnerTerms) -> HelloDecision:
    """Tell an actor that its session was closed.

    A session of an earlier generation first gets the number of steps that its actor reports, because a
    checkpoint may have fewer.
    """
    counted: tuple[tuple[bytes, int], ...] = ()
    produced = hello.produced
    if account is not None and hello.produced <= terms.session_limit_steps:
        produced = account.produced
        if 0 <= hello.generation < terms.generation:
            produced = max(produced, hello.produced)
            counted = ((hello.sid, produced),)
    text = "the session was closed: begin a new one"
    return HelloDecision(m.Reject(code="lost", text=text, sid=hello.sid, produced=produced), ended=counted)


def _former_sessions(hello: m.Hello, terms: LearnerTerms) -> tuple[tuple[bytes, int], ...]:
    """Return the former sessions of an actor, each with its number of produced steps.

    The number is 0 where the ledger is not to change: in the first generation of a run, which has counted
    every step itself, and for a number that no session of this run can reach. A later generation may have
    restarted from a checkpoint that is older than the end of the session.
    """
    limit_steps = terms.session_limit_steps if terms.generation > 0 else 0
    return tuple(
        (sid, produced if 0 < produced <= limit_steps else 0) for sid, produced in hello.former.items()
    )


def welcome(
    session: SessionRecord, account: Account, credit: int, version: int, terms: LearnerTerms
) -> m.Welcome:
    """Return the Welcome of an accepted session; `version` is that of the newest bundle."""
    return m.Welcome(
        sid=session.sid,
        generation=terms.generation,
        slot=session.slot,
        incarnation=session.incarnation,
        received=account.received,
        settled=account.settled,
        credit=credit,
        version=version,
        target=terms.target_digest,
        heartbeat_ms=int(HEARTBEAT_SECONDS * 1000),
        lease_ms=int(sessions.LEASE_SECONDS * 1000),
        software=common.__version__,
        body=terms.body,
    )
