"""Limits of what peers may send: offences, bans and quotas. Pure decisions; time comes in as `now`.

Messages, bytes and offences are counted for each connection, because a fleet may share one key and
one bad session must not end the others. Ten offences within a minute end in a ban of a minute, in
which the learner ignores the connection. An occasional damaged message is no reason to ban. New
sessions are counted for each key, and wait without an offence where they are too many at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

SESSIONS_PER_KEY = 4_096  # at a time, unless set; each holds two connections and an account
STRIKES = 10
STRIKE_SECONDS = 60.0  # how long one is held against somebody
BAN_SECONDS = 60.0
_MESSAGES_PER_SECOND = 1_000.0  # twice the chunks that one decode thread reads
_BYTES_PER_SECOND = 32.0 * 2**20  # twice the compressed chunks that it decodes
_WEIGHTS_BYTES_PER_SECOND = 256.0 * 2**20
_SAVED_SECONDS = 10.0  # of quota: a fleet that comes back after a pause has much to say at once
VERSION_SECONDS = 0.01  # of quota, for a message of another release: it costs a log line and an answer
_HELLO_SECONDS = 0.002  # of the quota of Hellos: each costs an account, a log line and an answer of 2 KB
_RETRY_SECONDS = 1.0  # the least time until a Hello beyond the quota is repeated
_KEPT = 32_768  # identities remembered; a peer without a key has as many as it makes connections

Hearing = Literal["heard", "excess", "banned"]


@dataclass(frozen=True, slots=True)
class Sender:
    """The connection that a message came on. Bans apply to it, never to a key that a fleet shares."""

    peer: bytes  # its routing id
    key: str = ""  # the public key that was authorised; empty on a port without keys
    name: str | None = None  # of the key

    @property
    def hello_identity(self) -> bytes:
        """The identity whose Hellos are counted: the key, or the connection where there is none."""
        return self.key.encode() or self.peer


@dataclass(slots=True)
class _Record:
    paid_until: float = 0.0  # quota is time: messages move it on, and it may run this far ahead of `now`
    pulled_until: float = 0.0
    hellos_paid_until: float = 0.0  # of a key, for its Hellos
    strikes: deque[float] = field(default_factory=lambda: deque(maxlen=STRIKES))
    banned_until: float = 0.0

    def rests(self, now: float) -> bool:
        """Whether nothing in it matters any more."""
        struck = self.strikes[-1] + STRIKE_SECONDS if self.strikes else 0.0
        return now > max(
            self.paid_until, self.pulled_until, self.hellos_paid_until, struck, self.banned_until
        )


class PeerRateLimiter:
    """Owned by the network thread."""

    def __init__(self) -> None:
        self._records: dict[bytes, _Record] = {}
        self.bans = 0
        self.unheard = 0  # messages of the banned, and beyond a quota

    def classify_message(self, who: bytes, size_bytes: int, now: float) -> Hearing:
        """Whether to look at a message; one beyond the quota is an offence, for the caller to count."""
        record = self._record(who, now)
        if now < record.banned_until or record.paid_until > now + _SAVED_SECONDS:
            self.unheard += 1
            return "banned" if now < record.banned_until else "excess"
        self.charge(who, 1 / _MESSAGES_PER_SECOND + size_bytes / _BYTES_PER_SECOND, now)
        return "heard"

    def allow_hello(self, hello_identity: bytes, now: float) -> float:
        """Count one more Hello of a key; returns 0, or the seconds after which to repeat it."""
        record = self._record(hello_identity, now)
        excess_seconds = record.hellos_paid_until - now - _SAVED_SECONDS
        if excess_seconds > 0:
            return max(_RETRY_SECONDS, excess_seconds)
        record.hellos_paid_until = max(record.hellos_paid_until, now) + _HELLO_SECONDS
        return 0.0

    def charge(self, who: bytes, seconds: float, now: float) -> None:
        """Take from the quota."""
        record = self._record(who, now)
        record.paid_until = max(record.paid_until, now) + seconds

    def allow_send(self, who: bytes, size_bytes: int, now: float) -> bool:
        """Whether to send so many bytes of weights; who may not yet has to ask again, without offence."""
        record = self._record(who, now)
        if record.pulled_until > now + _SAVED_SECONDS:
            return False
        record.pulled_until = max(record.pulled_until, now) + size_bytes / _WEIGHTS_BYTES_PER_SECOND
        return True

    def record_violation(self, who: bytes, now: float) -> bool:
        """Count an offence; True if it was one too many, and a ban begins."""
        record = self._record(who, now)
        record.strikes.append(now)
        if len(record.strikes) < STRIKES or now - record.strikes[0] > STRIKE_SECONDS:
            return False
        record.strikes.clear()
        record.banned_until = now + BAN_SECONDS
        self.bans += 1
        return True

    def _record(self, who: bytes, now: float) -> _Record:
        if who not in self._records:
            if len(self._records) >= _KEPT:
                self._forget(now)
            self._records[who] = _Record()
        return self._records[who]

    def _forget(self, now: float) -> None:
        """Make room: whoever is at rest, else the oldest half."""
        busy = {who: record for who, record in self._records.items() if not record.rests(now)}
        self._records = dict(list(busy.items())[-_KEPT // 2 :])
