"""An authorised session that takes grants and spoils them, with a bounded number of messages per second."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable

from common.keys.curve import ActorKeys
from common.protocol import codec
from common.protocol import messages as m
from tests.support.attacking_peer import WAIT_SECONDS, AttackingPeer
from tests.support.wire_fuzz import hello

FORM_SECONDS = 5.0  # for which a session keeps one form of attack
MESSAGES_PER_SECOND = 50.0  # of one session, so that the attack itself needs little processor time
_EMPTY_PARTS = 1_000  # of one message
_JOIN_SECONDS = 5.0
_REJOIN_SECONDS = 1.0  # so that the ledger keeps the accounts of all sessions for an hour


class SessionAttack(AttackingPeer):
    """Takes the forms of attack in turn; after a ban it begins another session on a new connection."""

    def __init__(self, data_endpoint: str, keys: ActorKeys | None, first_form: int = 0) -> None:
        super().__init__(data_endpoint, keys)
        self._form = first_form
        self.grants = self.sessions = self.bans = 0

    def on_message(self, message: m.Message) -> None:
        """Count grants, sessions and bans."""
        before = self.credit
        super().on_message(message)
        self.grants += self.credit > before
        self.sessions += isinstance(message, m.Welcome)
        self.bans += isinstance(message, m.Reject) and message.code == "lost"

    def attack(self) -> None:
        """Send one message of the present form at a time."""
        self.connect()
        while not self.stopped.is_set():
            if not self.joined:
                self._join()
                continue
            form = FORMS[int(self._form + time.monotonic() / FORM_SECONDS) % len(FORMS)]
            self.attempt(self.socket, form(self))
            until = time.monotonic() + 1 / MESSAGES_PER_SECOND
            while (wait := until - time.monotonic()) > 0:
                self.receive(wait)

    def _join(self) -> None:
        """Begin another session on a new connection: a ban applies to the old one."""
        self.stopped.wait(_REJOIN_SECONDS)
        self.close()
        self.connect()
        self.sid, self.received, self.credit = secrets.token_bytes(16), 0, 0
        until = time.monotonic() + _JOIN_SECONDS
        while not self.joined and time.monotonic() < until and not self.stopped.is_set():
            self.attempt(self.socket, hello(self.sid))
            self.receive_kind(m.Welcome, 2 * WAIT_SECONDS)

    def next_steps(self, generation: int) -> m.ChunkMessage:
        """A chunk of the granted steps, with a valid checksum and without data."""
        steps = max(1, self.credit - self.received)
        chunk = m.ChunkMessage(
            sid=self.sid,
            generation=generation,
            version=self.version,
            offset=self.received,
            steps=steps,
            produced=self.received + steps,
            fresh=True,
            truncations=0,
            observation_bytes=0,
            crc=0,
        )
        return dataclasses.replace(chunk, crc=codec.checksum(chunk))


def keep_grants(session: SessionAttack) -> list[bytes]:
    """Renew the lease, and never answer the grant."""
    return codec.encode(
        m.Heartbeat(sid=session.sid, generation=session.generation, produced=session.received, stats={})
    )


def answer_with_another_generation(session: SessionAttack) -> list[bytes]:
    """Answer with a chunk of a learner process that never was."""
    return codec.encode(session.next_steps(session.generation - 1))


def answer_unreadably(session: SessionAttack) -> list[bytes]:
    """Answer with a chunk that is admitted, and that the decoder refuses."""
    return codec.encode(session.next_steps(session.generation))


def skip_steps(session: SessionAttack) -> list[bytes]:
    """Report one step without data."""
    return codec.encode(
        m.Skip(
            sid=session.sid,
            generation=session.generation,
            offset=session.received,
            steps=1,
            produced=session.received + 1,
            reason="oversize",
        )
    )


def send_empty_parts(session: SessionAttack) -> list[bytes]:
    """A heartbeat with many further parts."""
    return keep_grants(session) + [b""] * _EMPTY_PARTS


FORMS: tuple[Callable[[SessionAttack], list[bytes]], ...] = (
    keep_grants,
    answer_with_another_generation,
    skip_steps,
    answer_unreadably,
    send_empty_parts,
)
