"""Checks the quota of each message, decodes and counts it, and passes it to admission. It uses no sockets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import get_args

import structlog

from common.protocol import codec
from common.protocol.messages import ChunkMessage, Hello, Message, Reject, Skip, WeightsRequest
from learner.server.admission import Admission
from learner.server.rate_limit import (
    BAN_SECONDS,
    SKIP_SECONDS,
    VERSION_SECONDS,
    VIOLATIONS_PER_BAN,
    PeerRateLimiter,
    Sender,
)
from learner.server.registry import Replies
from learner.server.scheduler import AdmittedChunk

log = structlog.get_logger()

_IGNORED_BYTES_MIN = 2**16  # what an ignored message counts as, at least
_IGNORED_PART_BYTES = 2**12  # what a discarded part of one counts as
_KINDS = ("hello", "chunk", "skip", "heartbeat", "bye")  # the messages that actors send to the data port


class MessageHandler:
    """Handles the messages of both ports. Owned by the network thread.

    Replies go to `enqueue`, in the order of the messages that they answer, and admitted chunks to `submit`.
    """

    def __init__(
        self,
        admission: Admission,
        enqueue: Callable[[Replies], None],
        submit: Callable[[AdmittedChunk], None],
    ) -> None:
        self._admission, self._enqueue, self._submit = admission, enqueue, submit
        self.rate_limiter = PeerRateLimiter()
        self.wire_errors: Counter[str] = Counter(dict.fromkeys(get_args(codec.WireReason), 0))
        self.violations: Counter[str] = Counter({"": 0})  # by the name of the key
        self.messages: Counter[str] = Counter(dict.fromkeys(_KINDS, 0))
        self.received_bytes = self.chunk_bytes = self.chunk_steps = 0

    def handle(
        self, sender: Sender, parts: list[bytes], now: float, excess_parts: int = 0, excess_bytes: int = 0
    ) -> int:
        """Handle a message of the data port.

        Args:
            sender: the connection of the message.
            parts: its first parts.
            now: the present time in seconds.
            excess_parts: number of further parts, which were discarded.
            excess_bytes: of the discarded parts.

        Returns:
            0, or the bytes that an ignored message counts as, so that the caller can pause after many.
        """
        size_bytes = sum(map(len, parts)) + excess_bytes
        self.received_bytes += size_bytes
        if not self._accepts(sender, size_bytes, excess_parts, now):
            return max(size_bytes, _IGNORED_BYTES_MIN) + excess_parts * _IGNORED_PART_BYTES
        try:
            message = _decode(parts, excess_parts)
        except codec.WireError as error:
            self._refuse(sender, error, now)
            if error.reason == "version":
                self._enqueue([(sender.peer, Reject(code="protocol", text=str(error)))])
            return 0
        self.messages[type(message).__name__.removesuffix("Message").lower()] += 1
        if isinstance(message, Hello) and not self._allow_hello(sender, message, now):
            return 0
        if isinstance(message, Skip):
            self.rate_limiter.charge(sender.peer, SKIP_SECONDS, now)
        if isinstance(message, ChunkMessage):
            self.chunk_bytes += size_bytes
            self.chunk_steps += message.steps
        result = self._admission.on(sender.peer, message, now, sender.key)
        self._enqueue(result.replies)
        for chunk in result.chunks:
            self._submit(chunk)
        for violation in result.violations:
            self.record_violation(sender, "violation", violation, now)
        return 0

    def handle_request(
        self, sender: Sender, parts: list[bytes], now: float, excess_parts: int = 0, excess_bytes: int = 0
    ) -> WeightsRequest | int:
        """Check a message of the weights port; return the request to answer, or a number as `handle` does."""
        if not self._accepts(sender, sum(map(len, parts)) + excess_bytes, excess_parts, now):
            return _IGNORED_BYTES_MIN + excess_parts * _IGNORED_PART_BYTES
        try:
            request = _decode(parts, excess_parts)
            if not isinstance(request, WeightsRequest):
                raise codec.WireError("kind", f"expected WeightsRequest, got {type(request).__name__}")
        except codec.WireError as error:
            self._refuse(sender, error, now)
            return 0
        return request

    def _accepts(self, sender: Sender, size_bytes: int, excess_parts: int, now: float) -> bool:
        """Return whether to read a message; one beyond the quota is recorded as a violation."""
        message_class = self.rate_limiter.classify_message(sender.peer, size_bytes, now, excess_parts)
        if message_class == "excess":
            text = "expected fewer or smaller messages, got more than the quota"
            self.record_violation(sender, "quota", text, now)
        return message_class == "accepted"

    def _allow_hello(self, sender: Sender, hello: Hello, now: float) -> bool:
        """Return whether to handle a Hello now; if not, tell its sender when to send it again."""
        pause_seconds = self.rate_limiter.allow_hello(sender.hello_identity, now)
        if pause_seconds:
            self._admission.registry.count_event("full")
            text = "too many sessions join at once: the learner accepts the others first"
            retry_after_ms = math.ceil(pause_seconds * 1000)
            reject = Reject(code="full", text=text, retry_after_ms=retry_after_ms)
            self._enqueue([(sender.peer, reject)])
            return False
        log.info("hello", sid=hello.sid.hex(), host=hello.host, pid=hello.pid, key=sender.name)
        return True

    def _refuse(self, sender: Sender, error: codec.WireError, now: float) -> None:
        """Count a message that cannot be decoded; one of another protocol version is no violation."""
        self.wire_errors[error.reason] += 1
        if error.reason != "version":
            self.record_violation(sender, error.reason, str(error), now)
            return
        log.warning("message_refused", reason=error.reason, text=str(error))
        self.rate_limiter.charge(sender.peer, VERSION_SECONDS, now)  # the sender may run another release

    def record_violation(self, sender: Sender, reason: str, text: str, now: float) -> None:
        """Log a violation; the one that exceeds the limit bans the connection and ends its session."""
        self.violations[sender.name or ""] += 1
        session = self._admission.registry.sessions.by_peer(sender.peer)
        sid = session.sid.hex() if session is not None else None
        log.warning("message_refused", reason=reason, text=text, key=sender.name, sid=sid)
        if self.rate_limiter.record_violation(sender.peer, now):
            ban = f"ignored for {BAN_SECONDS:.0f} s after {VIOLATIONS_PER_BAN} violations, the last: {text}"
            log.warning("peer_banned", text=ban[:256], key=sender.name, sid=sid)
            self._enqueue(self._admission.expel(sender.peer, ban[:256]))


def _decode(parts: list[bytes], excess_parts: int) -> Message:
    """Decode a message. Raises WireError, also if parts were discarded."""
    if excess_parts:
        raise codec.WireError("frames", f"expected 1 or 2 parts, got {len(parts) + excess_parts}")
    return codec.decode(parts)
