"""The actor's side of the protocol: joining, credit, acknowledgements, resending, leaving.

A session is one life in the learner's books. It keeps every compressed chunk until the learner has
settled it, and sends it again after a reconnect; offsets make repeats harmless.
"""

from __future__ import annotations

import os
import random
import secrets
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

import common
from common.process.lifecycle import EXIT_CONFIGURATION, Backoff, Fatal
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

_HELLO_SECONDS = 1.0  # how long an answer to Hello may take before it is said again
_BYE_SECONDS = 8.0
_PAUSE_SECONDS = 1.0  # a gap in our own loop that does not count as the learner's silence
_FIRST_LEASE_SECONDS = 10.0  # silence before the connection is made anew, until a Welcome says
_FORMER_SECONDS = 3_600.0  # a learner that restarts needs the sessions that ended since its checkpoint


@dataclass(frozen=True, slots=True)
class _Held:
    """A sealed chunk or skip that the learner has not settled."""

    offset: int
    steps: int
    parts: list[bytes]


class Session:
    """Owned by the actor's only thread. `connect` makes a fresh socket to the learner's data port."""

    def __init__(self, connect: Callable[[], DealerSocket], parent: ParentLink) -> None:
        self._connect, self._parent = connect, parent
        self.stats: dict[str, float] = {}  # travels with heartbeats
        self._client = connect()
        self._backoff = Backoff()
        self.counts: Counter[str] = Counter()
        self._former: deque[tuple[float, bytes, int]] = deque(
            maxlen=messages.FORMER_SESSIONS
        )  # end, sid, steps
        self.welcome: Welcome | None = None
        self.finished = False
        self._heard = self._polled = time.monotonic()
        self._heartbeat_seconds, self._lease_seconds = _HELLO_SECONDS, _FIRST_LEASE_SECONDS
        self._begin()

    def _begin(self) -> None:
        self.sid = secrets.token_bytes(16)
        self.produced = 0  # steps made
        self._parent.tally(self.sid, 0)
        self._sealed = 0  # steps sent or skipped
        self._held: deque[_Held] = deque()
        self.credit, self.version = 0, -1
        self.generation = -1  # the learner generation that welcomed it
        self.joined = self._gone = False
        self._next_beat = 0.0

    @property
    def unsettled_steps(self) -> int:
        """Steps whose data is kept for a resend."""
        return sum(held.steps for held in self._held)

    def stepped(self, steps: int) -> None:
        """Count steps as they are made, where a parent can read them even after a kill."""
        self.produced += steps
        self._parent.tally(self.sid, self.produced)

    def join(self, timeout_seconds: float) -> bool:
        """Wait for a place; False after the timeout."""
        deadline = time.monotonic() + timeout_seconds
        while not self.joined and time.monotonic() < deadline and not self._parent.gone():
            self.poll(min(_HELLO_SECONDS, deadline - time.monotonic()))
        return self.joined

    def poll(self, timeout_seconds: float = 0.0) -> None:
        """Read what the learner sent; say Hello or send a heartbeat when due; notice silence.

        Raises:
            Fatal: the learner refuses this actor for good.
        """
        pause = time.monotonic() - self._polled
        if pause > _PAUSE_SECONDS:  # we were busy: nobody was asked, so nobody was silent
            self._heard += pause
        parts = self._client.receive(max(0.0, timeout_seconds), self._parent.fileno())
        while parts is not None:
            self._heard = time.monotonic()
            try:
                self._on(codec.decode(parts))
            except codec.WireError as error:
                if error.reason == "version":
                    raise Fatal(EXIT_CONFIGURATION, str(error)) from None
                self.counts["wire_errors"] += 1
                log.warning("message_refused", reason=error.reason, text=str(error))
            parts = self._client.receive()
        self._polled = time.monotonic()
        self._speak(self._polled)  # last: what already lies here counts as heard

    def _speak(self, now: float) -> None:
        if now - self._heard > self._lease_seconds:
            text = (
                f"expected an answer from the learner, got none for {now - self._heard:.0f} s: "
                "check --learner and that it runs; trying on"
            )
            log.warning("learner_silent", text=text)
            self._reconnect()
        if now < self._next_beat:
            return
        refusal = self._client.refusal()
        if refusal is not None:
            raise Fatal(EXIT_CONFIGURATION, refusal)
        if self.joined:
            self._next_beat = now + self._heartbeat_seconds
            self._client.send(
                codec.encode(
                    Heartbeat(
                        sid=self.sid, generation=self.generation, produced=self.produced, stats=self.stats
                    )
                )
            )
            return
        self._next_beat = now + _HELLO_SECONDS + self._backoff.next_seconds()
        base = self._held[0].offset if self._held else self._sealed
        host = socket.gethostname()[:200]
        hello = Hello(
            sid=self.sid,
            generation=self.generation,
            host=host,
            pid=os.getpid(),
            software=common.__version__,
            base=base,
            produced=self.produced,
            former={sid: steps for end, sid, steps in self._former if now - end < _FORMER_SECONDS},
        )
        self._client.send(codec.encode(hello))

    def _reconnect(self) -> None:
        self.counts["reconnects"] += 1
        self._client.close()
        self._client = self._connect()
        self._rejoin()
        self._heard = time.monotonic()

    def _rejoin(self) -> None:
        self.joined = False
        self._next_beat = 0.0

    def _on(self, message: messages.Message) -> None:
        match message:
            case Welcome():
                self._on_welcome(message)
            case Ack() if message.generation == self.generation:
                self.credit, self.version = message.credit, message.version
                self._free(message.settled)
            case Ack() if self.joined:  # of a learner life whose Welcome we missed
                self._rejoin()
            case Resend():
                self._resend(message.offset)
            case HelloRequired():
                self._rejoin()
            case Reject(code="lost"):
                self._on_lost(message)
            case Reject(code="full"):
                self._on_full(message)
            case Reject():
                raise Fatal(EXIT_CONFIGURATION, message.text)
            case Drain():
                # The session stays joined and can still say Bye. The next learner answers with HelloRequired.
                self.finished = self.finished or message.finished
            case ByeAck():
                self._gone = True

    def _on_welcome(self, welcome: Welcome) -> None:
        if welcome.sid != self.sid or self.joined:
            return
        self.welcome, self.joined, self.generation = welcome, True, welcome.generation
        self._heartbeat_seconds, self._lease_seconds = welcome.heartbeat_ms / 1000, welcome.lease_ms / 1000
        self.credit, self.version = welcome.credit, welcome.version
        self._backoff.reset()
        self._free(welcome.settled)
        self._resend(welcome.received)
        log.info("joined", slot=welcome.slot, generation=welcome.generation, version=welcome.version)

    def _on_full(self, full: Reject) -> None:
        """Ask again after the time of the refusal; silence until then does not count."""
        if self.joined:  # the answer to a Hello that was repeated
            return
        log.warning("learner_full", text=full.text, next="asking again")
        pause_seconds = full.retry_after_ms / 1000 * random.uniform(1.0, 1.5)  # noqa: S311  # spreads load
        self._heard = self._next_beat = time.monotonic() + pause_seconds

    def _on_lost(self, lost: Reject) -> None:
        """Begin a new session; it accounts for the steps that the learner does not count in the old one."""
        if lost.sid != self.sid:
            return
        untold = self.produced - lost.produced
        log.warning("session_lost", steps_untold=untold, next="beginning a new one")
        self._former.append((time.monotonic(), self.sid, lost.produced))
        self._begin()
        self.stepped(max(0, untold))
        self.skip("actor_lost")

    def _free(self, settled: int) -> None:
        while self._held and self._held[0].offset + self._held[0].steps <= settled:
            self._held.popleft()
            self.counts["chunks_settled"] += 1

    def _resend(self, offset: int) -> None:
        for held in self._held:
            if held.offset >= offset:
                self._client.send(held.parts)
                self.counts["chunks_retransmitted"] += 1

    def send_chunk(self, generation: int, version: int, fresh: bool, packed: codec.Packed) -> None:
        """Send the steps produced since the last sealed chunk, as one chunk; see `ChunkMessage`."""
        steps = self.produced - self._sealed
        message = packed.message(
            sid=self.sid,
            generation=generation,
            version=version,
            offset=self._sealed,
            steps=steps,
            produced=self.produced,
            fresh=fresh,
        )
        self._seal(message, steps)
        self.counts["chunks_sent"] += 1

    def skip(self, reason: messages.SkipReason) -> None:
        """Tell that the steps since the last sealed chunk have no data."""
        steps = self.produced - self._sealed
        if steps:
            self._seal(
                Skip(
                    sid=self.sid,
                    generation=self.generation,
                    offset=self._sealed,
                    steps=steps,
                    produced=self.produced,
                    reason=reason,
                ),
                steps,
            )

    def _seal(self, message: ChunkMessage | Skip, steps: int) -> None:
        held = _Held(self._sealed, steps, codec.encode(message))
        self._held.append(held)
        self._sealed += steps
        self._client.send(held.parts)

    def leave(self) -> bool:
        """Say Bye until every step is received or booked; False if the learner did not answer.

        Whom no learner ever welcomed has no step to hand in; a seat it never heard of ends with its lease.
        """
        if self.welcome is None:
            return True
        deadline = time.monotonic() + _BYE_SECONDS
        while not self._gone and time.monotonic() < deadline and not self._parent.gone():
            if self.joined or self.join(deadline - time.monotonic()):
                self._client.send(codec.encode(Bye(sid=self.sid, produced=self.produced)))
                self.poll(0.5)
        return self._gone

    def close(self) -> None:
        """End the connection."""
        self._client.close(linger_seconds=1.0)
