"""The actor's side of the protocol: joining, credit, acknowledgements, resending, leaving.

A session is one entry of the learner's ledger. The actor keeps every encoded chunk until the learner has
settled it, and sends it again after a reconnect. The learner recognises a repeated chunk by its offset.
"""

from __future__ import annotations

import os
import random
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

import common
from actor import limits
from actor.connection import HELLO_SECONDS, Connection
from actor.resend_buffer import ResendBuffer
from common.log import fields as log_fields
from common.process.lifecycle import EXIT_CONFIGURATION, Fatal
from common.process.parent_link import ParentLink
from common.protocol import codec, messages
from common.protocol.messages import (
    Ack,
    Bye,
    ByeAck,
    ChunkMessage,
    Drain,
    Heartbeat,
    Hello,
    HelloRequired,
    Reject,
    Resend,
    Skip,
    Welcome,
)
from common.protocol.sockets import DealerSocket

log = structlog.get_logger()

_BYE_SECONDS = 8.0
_BYE_REPEAT_SECONDS = 0.5
_FORMER_SECONDS = 3_600.0  # a restarted learner needs the sessions that ended after its checkpoint


@dataclass(slots=True)
class SessionCounters:
    """The number of events of each kind in all sessions of an actor."""

    chunks_sent: int = 0
    chunks_retransmitted: int = 0
    chunks_settled: int = 0
    reconnects: int = 0
    refused_messages: int = 0


class Session:
    """An actor's current session. Owned by one thread; `connect` makes a socket to the data port."""

    def __init__(self, connect: Callable[[], DealerSocket], parent: ParentLink) -> None:
        self._connection, self._parent = Connection(connect), parent
        self.counters = SessionCounters()
        self.stats: dict[str, float] = {}  # sent with every heartbeat; `Actor` replaces it
        # Sessions that the learner closed as lost: time of the end, sid, steps that the learner counted.
        self._former: deque[tuple[float, bytes, int]] = deque(maxlen=messages.FORMER_SESSIONS)
        self.welcome: Welcome | None = None  # the latest
        self.finished = False  # whether the run is complete
        self._begin()

    def _begin(self) -> None:
        self.sid = secrets.token_bytes(16)
        self.produced = 0  # steps of this session
        self._parent.write_step_count(self.sid, 0)
        self.buffer = ResendBuffer()
        self.credit, self.version = 0, -1
        self.generation = -1  # of the learner that accepted the session
        self._leave_acknowledged = False
        self._require_hello()

    def _require_hello(self) -> None:
        self.joined = False
        self._connection.schedule_now()

    def count_steps(self, steps: int) -> None:
        """Count new steps, and write the count where the parent can read it after a kill."""
        self.produced += steps
        self._parent.write_step_count(self.sid, self.produced)

    def join(self, timeout_seconds: float) -> bool:
        """Wait for a Welcome; False after the timeout."""
        deadline = time.monotonic() + timeout_seconds
        while not self.joined and time.monotonic() < deadline and not self._parent.gone():
            self.poll(min(HELLO_SECONDS, deadline - time.monotonic()))
        return self.joined

    def poll(self, timeout_seconds: float = 0.0) -> None:
        """Handle the messages of the learner; reconnect if it is silent; send a Hello or heartbeat if due.

        Raises:
            Fatal: the learner refuses this actor, and no retry helps.
        """
        for parts in self._connection.receive(timeout_seconds, self._parent.fileno()):
            try:
                self._on(codec.decode(parts))
            except codec.WireError as error:
                if error.reason == "version":
                    raise Fatal(EXIT_CONFIGURATION, str(error)) from None
                self.counters.refused_messages += 1
                log.warning("message_refused", reason=error.reason, text=str(error))
        silence = self._connection.silence()  # after every message that has arrived
        if silence is not None:
            log.warning("learner_silent", text=silence)
            self.reconnect()
        if self._connection.message_due:
            self._send_hello_or_heartbeat()

    def _send_hello_or_heartbeat(self) -> None:
        refusal = self._connection.refusal()
        if refusal is not None:
            raise Fatal(EXIT_CONFIGURATION, refusal)
        if self.joined:
            self._connection.schedule_heartbeat()
            self._connection.send(
                Heartbeat(sid=self.sid, generation=self.generation, produced=self.produced, stats=self.stats)
            )
            return
        self._connection.schedule_hello()
        oldest = time.monotonic() - _FORMER_SECONDS
        hello = Hello(
            sid=self.sid,
            generation=self.generation,
            host=socket.gethostname()[:200],
            pid=os.getpid(),
            software=common.__version__,
            base=self.buffer.base,
            produced=self.produced,
            former={sid: steps for ended_at, sid, steps in self._former if ended_at > oldest},
        )
        self._connection.send(hello)

    def reconnect(self) -> None:
        """Replace the connection and join again."""
        self.counters.reconnects += 1
        self._connection.reconnect()
        self._require_hello()

    def _on(self, message: messages.Message) -> None:
        match message:
            case Welcome():
                self._on_welcome(message)
            case Ack() if message.generation == self.generation:
                self.credit, self.version = message.credit, message.version
                self.counters.chunks_settled += self.buffer.settle(message.settled)
            case Ack() if self.joined:  # from a later generation, whose Welcome was lost
                self._require_hello()
            case Resend():
                self._resend(message.offset)
            case HelloRequired():
                self._require_hello()
            case Reject(code="lost"):
                self._on_lost(message)
            case Reject(code="full"):
                self._on_full(message)
            case Reject():
                raise Fatal(EXIT_CONFIGURATION, message.text)
            case Drain():
                # The session stays joined, so that it can send Bye. A new learner answers with HelloRequired.
                self.finished = self.finished or message.finished
            case ByeAck():
                self._leave_acknowledged = True

    def _on_welcome(self, welcome: Welcome) -> None:
        if welcome.sid != self.sid or self.joined:
            return
        self.welcome, self.joined, self.generation = welcome, True, welcome.generation
        self._connection.accepted(welcome.heartbeat_ms, welcome.lease_ms)
        self.credit, self.version = welcome.credit, welcome.version
        self.counters.chunks_settled += self.buffer.settle(welcome.settled)
        self._resend(welcome.received)
        log_fields.update(generation=welcome.generation, slot=welcome.slot, machine=socket.gethostname())
        log.info("joined", version=welcome.version)

    def _on_full(self, full: Reject) -> None:
        """Send the next Hello after the time that the refusal asks for."""
        if self.joined:  # this refuses a repeated Hello, after an earlier one was accepted
            return
        log.warning("learner_full", text=full.text, next="sending Hello again later")
        retry_seconds = limits.limited_seconds(full.retry_after_ms, limits.RETRY_SECONDS)
        self._connection.schedule_after(retry_seconds * random.uniform(1.0, 1.5))  # noqa: S311  # spreads load

    def _on_lost(self, lost: Reject) -> None:
        """Begin a new session, which reports the uncounted steps of the lost session as skipped."""
        if lost.sid != self.sid:
            return
        uncounted = self.produced - lost.produced
        log.warning("session_lost", uncounted_steps=uncounted, next="beginning a new session")
        self._former.append((time.monotonic(), self.sid, lost.produced))
        self._begin()
        self.count_steps(max(0, uncounted))
        self.skip("actor_lost")

    def _resend(self, offset: int) -> None:
        """Send every unsettled chunk and skip from `offset` on again."""
        for parts in self.buffer.since(offset):
            self._connection.send_encoded(parts)
            self.counters.chunks_retransmitted += 1

    def send_chunk(self, generation: int, version: int, fresh: bool, packed: codec.Packed) -> None:
        """Send the steps made since the last encoded chunk, as one chunk; see `ChunkMessage`."""
        message = packed.message(
            sid=self.sid,
            generation=generation,
            version=version,
            offset=self.buffer.encoded_steps,
            steps=self.produced - self.buffer.encoded_steps,
            produced=self.produced,
            fresh=fresh,
        )
        self._seal(message)
        self.counters.chunks_sent += 1

    def skip(self, reason: messages.SkipReason) -> None:
        """Report that the steps made since the last encoded chunk have no data."""
        steps = self.produced - self.buffer.encoded_steps
        if steps:
            self._seal(
                Skip(
                    sid=self.sid,
                    generation=self.generation,
                    offset=self.buffer.encoded_steps,
                    steps=steps,
                    produced=self.produced,
                    reason=reason,
                )
            )

    def _seal(self, message: ChunkMessage | Skip) -> None:
        self._connection.send_encoded(self.buffer.encode(message))

    def leave(self) -> bool:
        """Send Bye until the learner acknowledges it, for a bounded time; return whether it did.

        A session that was never accepted has no steps to submit; if its Welcome was lost, its lease ends it.
        """
        if self.welcome is None:
            return True
        deadline = time.monotonic() + _BYE_SECONDS
        while not self._leave_acknowledged and time.monotonic() < deadline and not self._parent.gone():
            if self.joined or self.join(deadline - time.monotonic()):
                self._connection.send(Bye(sid=self.sid, produced=self.produced))
                self.poll(_BYE_REPEAT_SECONDS)
        return self._leave_acknowledged

    def close(self) -> None:
        """End the connection."""
        self._connection.close()
