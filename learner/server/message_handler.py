"""From the parts of a message to the decision about it: limits, decoding, counts. No sockets.

The network thread reads; what it read is limited, decoded and handed to admission here.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import get_args

import structlog

from common.protocol import codec
from common.protocol.messages import ChunkMessage, Hello, Reject, WeightsRequest
from learner.server.admission import Admission, AdmissionResult
from learner.server.rate_limit import (
    BAN_SECONDS,
    VERSION_SECONDS,
    VIOLATIONS_PER_BAN,
    PeerRateLimiter,
    Sender,
)
from learner.server.registry import Replies

log = structlog.get_logger()

_LEAST_IGNORED_BYTES = 2**16  # what an ignored message counts as, at least
_KINDS = ("hello", "chunk", "skip", "heartbeat", "bye")  # of messages that actors send


class Intake:
    """Owned by the network thread."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.rate_limiter = PeerRateLimiter()
        self.wire_errors: Counter[str] = Counter(dict.fromkeys(get_args(codec.WireReason), 0))
        self.messages: Counter[str] = Counter(dict.fromkeys(_KINDS, 0))
        self.received_bytes = self.chunk_bytes = self.chunk_steps = 0

    def take(self, sender: Sender, parts: list[bytes], now: float) -> tuple[int, AdmissionResult]:
        """Take in a message of the data port.

        Returns:
            0, or the bytes that an ignored message counts as, so that the caller can pause between many;
            and the replies and chunks that follow from the message.
        """
        size, result = sum(map(len, parts)), AdmissionResult()
        self.received_bytes += size
        if not self._allows(sender, size, now, result.replies):
            return max(size, _LEAST_IGNORED_BYTES), result
        try:
            message = codec.decode(parts)
        except codec.WireError as error:
            self._refuse(sender, error, now, result.replies)
            if error.reason == "version":
                result.replies.append((sender.peer, Reject(code="protocol", text=str(error))))
            return 0, result
        self.messages[type(message).__name__.removesuffix("Message").lower()] += 1
        if isinstance(message, Hello) and not self._allow_hello(sender, message, now, result.replies):
            return 0, result
        if isinstance(message, ChunkMessage):
            self.chunk_bytes += size
            self.chunk_steps += message.steps
        result = self._admission.on(sender.peer, message, now, sender.key)
        for violation in result.violations:
            self._record_violation(sender, "violation", violation, now, result.replies)
        return 0, result

    def take_request(
        self, sender: Sender, parts: list[bytes], now: float, replies: Replies
    ) -> WeightsRequest | int:
        """Take in a message of the weights port: the request to answer, or a number as from `take`."""
        if not self._allows(sender, sum(map(len, parts)), now, replies):
            return _LEAST_IGNORED_BYTES
        try:
            request = codec.decode(parts)
            if not isinstance(request, WeightsRequest):
                raise codec.WireError("kind", f"expected WeightsRequest, got {type(request).__name__}")
        except codec.WireError as error:
            self._refuse(sender, error, now, replies)
            return 0
        return request

    def _allows(self, sender: Sender, size: int, now: float, replies: Replies) -> bool:
        verdict = self.rate_limiter.classify_message(sender.peer, size, now)
        if verdict == "excess":
            text = "expected fewer or smaller messages, got more than the quota"
            self._record_violation(sender, "quota", text, now, replies)
        return verdict == "accepted"

    def _allow_hello(self, sender: Sender, hello: Hello, now: float, replies: Replies) -> bool:
        """Whether to take in a Hello now; if not, its sender is told when to ask again."""
        pause_seconds = self.rate_limiter.allow_hello(sender.hello_identity, now)
        if pause_seconds:
            self._admission.registry.events["full"] += 1
            text = "expected fewer new sessions at once: the learner takes in the others first"
            retry_after_ms = math.ceil(pause_seconds * 1000)
            reject = Reject(code="full", text=text, retry_after_ms=retry_after_ms)
            replies.append((sender.peer, reject))
            return False
        log.info("hello", sid=hello.sid.hex(), host=hello.host, pid=hello.pid, key=sender.name)
        return True

    def _refuse(self, sender: Sender, error: codec.WireError, now: float, replies: Replies) -> None:
        self.wire_errors[error.reason] += 1
        if error.reason != "version":
            self._record_violation(sender, error.reason, str(error), now, replies)
            return
        log.warning("message_refused", reason=error.reason, text=str(error))
        self.rate_limiter.charge(sender.peer, VERSION_SECONDS, now)  # it may be honest, only older or newer

    def _record_violation(self, sender: Sender, reason: str, text: str, now: float, replies: Replies) -> None:
        log.warning("message_refused", reason=reason, text=text)
        if self.rate_limiter.record_violation(sender.peer, now):
            text = (
                f"ignored for {BAN_SECONDS:.0f} s after {VIOLATIONS_PER_BAN} violations, the last: {text}"
            )[:256]
            log.warning("peer_banned", text=text)
            replies += self._admission.expel(sender.peer, text)
