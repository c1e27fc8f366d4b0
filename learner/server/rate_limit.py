"""Limits what peers may send, by quotas and bans. No I/O; the caller passes the time as `now`.

Messages, bytes and violations are counted per connection, because a fleet may share one key, and one
faulty session must not end the others. A discarded part of a message counts as a message. Ten violations
within a minute cause a ban: the learner ignores the connection for a minute. Fewer, such as an occasional
damaged message, cause none. Hellos are counted per key; those beyond the quota wait and are no violation.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

SESSIONS_PER_KEY = 4_096  # the default; each session holds two connections and an account
VIOLATIONS_PER_BAN = 10
VIOLATION_SECONDS = 60.0  # for which a violation counts
BAN_SECONDS = 60.0
VERSION_SECONDS = (
    0.01  # of quota for a message of another protocol version, which the learner logs and answers
)
# Of quota for a skip. An actor sends one when its learner restarts, when it leaves, and for a chunk that is
# too large to send. A skip has no data, so only this bounds the steps that a session can invent.
SKIP_SECONDS = 0.1
_MESSAGES_PER_SECOND = 1_000.0  # twice the number of chunks that the decoder thread can read
_BYTES_PER_SECOND = 32.0 * 2**20  # twice the bytes of compressed chunks that it can read
_WEIGHTS_BYTES_PER_SECOND = 256.0 * 2**20
_BURST_SECONDS = 10.0  # of quota that may be used at once, because a fleet that returns sends much at once
_HELLO_SECONDS = 0.002  # of the quota for Hellos; each costs an account, a log line and a reply of 2 KB
_RETRY_SECONDS = 1.0  # the least time until a Hello beyond the quota is repeated
_USAGES_MAX = 32_768  # identities that are counted; a peer without a key has one per connection

MessageClass = Literal["accepted", "excess", "banned"]


@dataclass(frozen=True, slots=True)
class Sender:
    """The connection of a message. Bans apply to it, not to its key, which a fleet may share."""

    peer: bytes  # its routing id
    key: str = ""  # the public key that was authorised; empty on a port without keys
    name: str | None = None  # of the key

    @property
    def hello_identity(self) -> bytes:
        """The identity whose Hellos are counted: the key, or the connection where there is none."""
        return self.key.encode() or self.peer


@dataclass(slots=True)
class _Usage:
    """What one identity used.

    A quota is measured in time: each message advances the time until which the quota is used, to at most
    `_BURST_SECONDS` after now.
    """

    used_until: float = 0.0
    weights_used_until: float = 0.0
    hellos_used_until: float = 0.0  # of a key
    violations: deque[float] = field(default_factory=lambda: deque(maxlen=VIOLATIONS_PER_BAN))
    banned_until: float = 0.0

    def is_idle(self, now: float) -> bool:
        """Return whether every quota is free again, and no violation or ban counts any more."""
        violation = self.violations[-1] + VIOLATION_SECONDS if self.violations else 0.0
        return now > max(
            self.used_until, self.weights_used_until, self.hellos_used_until, violation, self.banned_until
        )


class PeerRateLimiter:
    """Counts what each connection and each key uses. Owned by the network thread."""

    def __init__(self) -> None:
        self._usages: dict[bytes, _Usage] = {}
        self.bans = 0
        self.ignored_messages = 0  # of banned connections, and beyond a quota

    def classify_message(
        self, identity: bytes, size_bytes: int, now: float, excess_parts: int = 0
    ) -> MessageClass:
        """Return whether to read a message; the caller records one beyond the quota as a violation."""
        usage = self._usage(identity, now)
        if now < usage.banned_until or usage.used_until > now + _BURST_SECONDS:
            self.ignored_messages += 1
            return "banned" if now < usage.banned_until else "excess"
        seconds = (1 + excess_parts) / _MESSAGES_PER_SECOND + size_bytes / _BYTES_PER_SECOND
        self.charge(identity, seconds, now)
        return "accepted"

    def allow_hello(self, hello_identity: bytes, now: float) -> float:
        """Count a Hello of a key; return 0, or the seconds after which to repeat it."""
        usage = self._usage(hello_identity, now)
        excess_seconds = usage.hellos_used_until - now - _BURST_SECONDS
        if excess_seconds > 0:
            return max(_RETRY_SECONDS, excess_seconds)
        usage.hellos_used_until = max(usage.hellos_used_until, now) + _HELLO_SECONDS
        return 0.0

    def charge(self, identity: bytes, seconds: float, now: float) -> None:
        """Use up seconds of the quota of messages and bytes."""
        usage = self._usage(identity, now)
        usage.used_until = max(usage.used_until, now) + seconds

    def allow_send(self, identity: bytes, size_bytes: int, now: float) -> bool:
        """Return whether to send bytes of weights; if not, the peer asks again, and it is no violation."""
        usage = self._usage(identity, now)
        if usage.weights_used_until > now + _BURST_SECONDS:
            return False
        usage.weights_used_until = max(usage.weights_used_until, now) + size_bytes / _WEIGHTS_BYTES_PER_SECOND
        return True

    def record_violation(self, identity: bytes, now: float) -> bool:
        """Count a violation; return True if a ban begins."""
        usage = self._usage(identity, now)
        usage.violations.append(now)
        if len(usage.violations) < VIOLATIONS_PER_BAN or now - usage.violations[0] > VIOLATION_SECONDS:
            return False
        usage.violations.clear()
        usage.banned_until = now + BAN_SECONDS
        self.bans += 1
        return True

    def _usage(self, identity: bytes, now: float) -> _Usage:
        if identity not in self._usages:
            if len(self._usages) >= _USAGES_MAX:
                self._drop(now)
            self._usages[identity] = _Usage()
        return self._usages[identity]

    def _drop(self, now: float) -> None:
        """Drop the usages that are over, and the oldest of the rest, so that at most half remain."""
        rest = {identity: usage for identity, usage in self._usages.items() if not usage.is_idle(now)}
        self._usages = dict(list(rest.items())[-_USAGES_MAX // 2 :])
