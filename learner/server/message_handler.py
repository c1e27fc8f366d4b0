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
from learner.server.admission import Admission
from learner.server.rate_limit import BAN_SECONDS, STRIKES, VERSION_SECONDS, PeerRateLimiter, Sender

log = structlog.get_logger()

_LEAST_IGNORED_BYTES = 2**16  # what an ignored message counts as, at least
_KINDS = ("hello", "chunk", "skip", "heartbeat", "bye")  # of messages that actors send


class Intake:
    """Owned by the network thread."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.conduct = PeerRateLimiter()
        self.wire_errors: Counter[str] = Counter(dict.fromkeys(get_args(codec.WireReason), 0))
        self.messages: Counter[str] = Counter(dict.fromkeys(_KINDS, 0))
        self.received_bytes = self.chunk_bytes = self.chunk_steps = 0

    def take(self, sender: Sender, parts: list[bytes], now: float) -> int:
        """Take in a message of the data port.

        Returns:
            0, or the bytes that an ignored message counts as, so that the caller can pause between many.
        """
        size = sum(map(len, parts))
        self.received_bytes += size
        if not self._allows(sender, size, now):
            return max(size, _LEAST_IGNORED_BYTES)
        try:
            message = codec.decode(parts)
        except codec.WireError as error:
            self._refuse(sender, error, now)
            if error.reason == "version":
                self._admission.replies.append((sender.peer, Reject(code="protocol", text=str(error))))
            return 0
        self.messages[type(message).__name__.removesuffix("Message").lower()] += 1
        if isinstance(message, Hello) and not self._allow_hello(sender, message, now):
            return 0
        if isinstance(message, ChunkMessage):
            self.chunk_bytes += size
            self.chunk_steps += message.steps
        self._admission.on(sender.peer, message, now, sender.key)
        for offence in self._admission.offences:
            self._strike(sender, "offence", offence, now)
        self._admission.offences.clear()
        return 0

    def take_request(self, sender: Sender, parts: list[bytes], now: float) -> WeightsRequest | int:
        """Take in a message of the weights port: the request to answer, or a number as from `take`."""
        if not self._allows(sender, sum(map(len, parts)), now):
            return _LEAST_IGNORED_BYTES
        try:
            request = codec.decode(parts)
            if not isinstance(request, WeightsRequest):
                raise codec.WireError("kind", f"expected WeightsRequest, got {type(request).__name__}")
        except codec.WireError as error:
            self._refuse(sender, error, now)
            return 0
        return request

    def _allows(self, sender: Sender, size: int, now: float) -> bool:
        hearing = self.conduct.classify_message(sender.peer, size, now)
        if hearing == "excess":
            self._strike(sender, "quota", "expected fewer or smaller messages, got more than the quota", now)
        return hearing == "heard"

    def _allow_hello(self, sender: Sender, hello: Hello, now: float) -> bool:
        """Whether to take in a Hello now; if not, its sender is told when to ask again."""
        pause_seconds = self.conduct.allow_hello(sender.hello_identity, now)
        if pause_seconds:
            self._admission.events["full"] += 1
            text = "expected fewer new sessions at once: the learner takes in the others first"
            retry_after_ms = math.ceil(pause_seconds * 1000)
            reject = Reject(code="full", text=text, retry_after_ms=retry_after_ms)
            self._admission.replies.append((sender.peer, reject))
            return False
        log.info("hello", sid=hello.sid.hex(), host=hello.host, pid=hello.pid, key=sender.name)
        return True

    def _refuse(self, sender: Sender, error: codec.WireError, now: float) -> None:
        self.wire_errors[error.reason] += 1
        if error.reason != "version":
            self._strike(sender, error.reason, str(error), now)
            return
        log.warning("message_refused", reason=error.reason, text=str(error))
        self.conduct.charge(sender.peer, VERSION_SECONDS, now)  # it may be honest, only older or newer

    def _strike(self, sender: Sender, reason: str, text: str, now: float) -> None:
        log.warning("message_refused", reason=reason, text=text)
        if self.conduct.record_violation(sender.peer, now):
            text = f"ignored for {BAN_SECONDS:.0f} s after {STRIKES} offences, the last: {text}"[:256]
            log.warning("peer_banned", text=text)
            self._admission.expel(sender.peer, text)
