"""Decisions about Hellos: which session is accepted, and what its actor is told."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import common
from common.config import Config
from common.protocol import messages as m
from learner.server import leases, validation
from learner.server.ledger import Account, Ledger
from learner.server.sessions import SessionRecord, SessionTable

HEARTBEAT_SECONDS = 2.0
_FULL_SECONDS = 10.0  # until a session that found no room asks again


@dataclass(frozen=True)
class Terms:
    """What a learner process compares every Hello with, and tells every actor that it accepts."""

    config: Config
    generation: int  # of the learner process
    target: bytes  # digest of the target network
    sessions_per_key: int

    @cached_property
    def body(self) -> bytes:
        """The configuration as it is shipped."""
        return self.config.to_json().encode()

    @cached_property
    def limit_steps(self) -> int:
        """See `validation.session_steps_limit`."""
        return validation.session_steps_limit(self.config)


class Violation(Exception):
    """A Hello that no honest actor sends; the text says what was expected."""


def refusal(
    hello: m.Hello,
    key: str,
    peer: bytes,
    ledger: Ledger,
    seats: SessionTable,
    terms: Terms,
    draining: m.Drain | None,
) -> m.Reject | m.Drain | None:
    """Decide on a Hello that came on connection `peer` of `key`.

    A session that an earlier learner process knew, and that is given up by now, is counted to its
    end first: a checkpoint knows less than the actor made, and the rest would be lost.

    Returns:
        What to answer instead of a Welcome, or None if the session is accepted.

    Raises:
        Violation: it cannot be true; there is no answer.
    """
    if not all(ledger.may_use(sid, key) for sid in (hello.sid, *hello.former)):
        raise Violation("expected sessions of the key of the connection, got one of another key")
    account, seat = ledger.accounts.get(hello.sid), seats.get(hello.sid)
    _require_none(validation.history_violation(hello))
    if validation.session_ended(hello, terms.generation, account, terms.limit_steps):
        countable = account is not None and hello.produced <= terms.limit_steps
        if countable and 0 <= hello.generation < terms.generation:
            ledger.extend(hello.sid, key, hello.produced)
        produced = ledger.accounts[hello.sid].produced if countable else hello.produced
        text = "the session was given up: begin a new one"
        return m.Reject(code="lost", text=text, sid=hello.sid, produced=produced)
    if seat is None and draining is not None:
        return draining  # known sessions are accepted, to say Bye
    if seat is None and seats.count(key) >= terms.sessions_per_key:
        text = f"expected at most {terms.sessions_per_key} sessions of a key: raise --sessions-per-key"
        return m.Reject(code="full", text=text, retry_after_ms=int(_FULL_SECONDS * 1000))
    steps = terms.config.rollout.chunk_steps
    _require_none(
        validation.hello_violation(hello, terms.generation, account, seat, seats.heard_on(peer), steps)
    )
    return None


def former_sessions(hello: m.Hello, terms: Terms) -> list[tuple[bytes, int]]:
    """The former sessions of an actor, and the steps to which each is to be counted.

    The first process of a run has counted them: 0. A later one may have restarted from a checkpoint
    that is older than their end. Numbers that no session of the run reaches are of another run: 0.
    """
    limit_steps = terms.limit_steps if terms.generation > 0 else 0
    return [(sid, produced if 0 < produced <= limit_steps else 0) for sid, produced in hello.former.items()]


def _require_none(violation: str | None) -> None:
    if violation is not None:
        raise Violation(violation)


def welcome(seat: SessionRecord, account: Account, version: int, terms: Terms) -> m.Welcome:
    """What an accepted session is told; `version` is the newest bundle."""
    return m.Welcome(
        sid=seat.sid,
        generation=terms.generation,
        slot=seat.slot,
        incarnation=seat.incarnation,
        received=account.received,
        settled=account.settled,
        credit=seat.credit,
        version=version,
        target=terms.target,
        heartbeat_ms=int(HEARTBEAT_SECONDS * 1000),
        lease_ms=int(leases.LEASE_SECONDS * 1000),
        software=common.__version__,
        body=terms.body,
    )
