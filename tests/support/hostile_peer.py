"""An authorised peer that attacks a learner with false claims, damaged messages and floods, from a seed.

It keeps one connection: a new one would have the same key, so a ban would apply to it as well.
"""

from __future__ import annotations

import dataclasses
import os
import random
import secrets
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

import zmq

from common.protocol import codec
from common.protocol import messages as m
from common.protocol.sockets import Context, DealerSocket
from learner.server.rate_limit import BAN_SECONDS
from tests.support.protocol_peer import MESSAGE_BYTES, SessionPeer
from tests.support.wire_fuzz import CORPUS, hello, mutant

_WAIT_SECONDS = 0.1  # the longest wait for an answer, or for room in the send queue


class HostilePeer(SessionPeer):
    """Attacks a learner from its own thread during the block, and counts its messages and bans."""

    def __init__(self, data_endpoint: str, weights_endpoint: str, seed: int) -> None:
        super().__init__(Context(), data_endpoint)
        self._weights_endpoint, self._rng = weights_endpoint, random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = self.bans = 0
        self.chunks = 0  # unreadable chunks that it sent or tried to send
        self.banned = False
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self.error is not None and error is None:
            raise self.error

    def on_message(self, message: m.Message) -> None:
        """Record also the rejection that begins a ban."""
        super().on_message(message)
        if isinstance(message, m.Reject) and message.code == "lost":
            self.banned = True
            self.bans += 1

    def _run(self) -> None:
        try:
            data = self.connect()
            weights = DealerSocket(self.context, self._weights_endpoint, MESSAGE_BYTES)
            while not self._stop.is_set():
                self._attack(data, weights)
        except BaseException as error:  # noqa: BLE001  # the test raises it
            self.error = error
        finally:
            self.context.raw.destroy(linger=0)

    def _attack(self, data: DealerSocket, weights: DealerSocket) -> None:
        """Join with a valid Hello, send false claims until the ban, then flood until the ban ends."""
        rng = self._rng
        self.sid, self.banned = secrets.token_bytes(16), False
        self.generation, self.received, self.credit = 0, 0, 0
        while not self._attempt(data, hello(self.sid)) and not self._stop.is_set():
            pass  # not connected yet
        while not self.banned and not self._stop.is_set():
            while self.receive(_WAIT_SECONDS) is not None:
                pass
            for _ in range(4):
                message = rng.choice(CORPUS)
                self._attempt(rng.choice([data, weights]), mutant(message, codec.encode(message), rng))
                claim = rng.choice(FALSE_CLAIMS).message(
                    rng, self.sid, self.generation, self.received, self.credit
                )
                self._attempt(data, claim)
                self.chunks += sum(isinstance(one, m.ChunkMessage) for one in (message, claim))
            self._attempt(
                weights, m.WeightsRequest(name="bundle", generation=-1, version=-1, piece=0, count=1 << 40)
            )
        heartbeat = m.Heartbeat(sid=self.sid, generation=self.generation, produced=self.received, stats={})
        until = time.monotonic() + BAN_SECONDS
        while time.monotonic() < until and not self._stop.is_set():
            self._attempt(data, heartbeat)

    def _attempt(self, socket: DealerSocket, message: m.Message | list[bytes]) -> bool:
        """Send, unless the queue stays full: the learner may read more slowly than this peer writes."""
        parts = message if isinstance(message, list) else codec.encode(message)
        sent = bool(socket.raw.poll(int(_WAIT_SECONDS * 1000), zmq.POLLOUT)) and socket.send(parts)
        self.sent += sent
        return sent


def false_heartbeat(rng: random.Random, sid: bytes, generation: int, offset: int, credit: int) -> m.Message:
    """A heartbeat with more steps than any credit allows."""
    return m.Heartbeat(sid=sid, generation=generation, produced=1 << 60, stats={"phase_" + "x" * 200: 1e308})


def false_skip(rng: random.Random, sid: bytes, generation: int, offset: int, credit: int) -> m.Message:
    """A skip of more steps than any credit allows."""
    return m.Skip(
        sid=sid,
        generation=generation,
        offset=offset,
        steps=1 << 60,
        produced=1 << 60,
        reason="old_generation",
    )


def second_hello(rng: random.Random, sid: bytes, generation: int, offset: int, credit: int) -> m.Message:
    """The first Hello of another session on the same connection."""
    return dataclasses.replace(hello(os.urandom(16)), host="x" * 256, software="x" * 256)


def unreadable_chunk(
    rng: random.Random, sid: bytes, generation: int, offset: int, credit: int
) -> m.ChunkMessage:
    """A chunk whose body is noise with a valid checksum; it uses a grant until it is decoded."""
    body, steps = rng.randbytes(500), max(1, credit - offset)
    chunk = m.ChunkMessage(
        sid=sid,
        generation=generation,
        version=0,
        offset=offset,
        steps=steps,
        produced=offset + steps,
        fresh=True,
        truncations=0,
        observation_bytes=100,
        crc=0,
        body=body,
    )
    return dataclasses.replace(chunk, crc=codec.checksum(chunk))


def damaged_chunk(rng: random.Random, sid: bytes, generation: int, offset: int, credit: int) -> m.Message:
    """A chunk whose body does not match its checksum."""
    return dataclasses.replace(unreadable_chunk(rng, sid, generation, offset, credit), crc=1)


class FalseClaim(NamedTuple):
    """A well-formed message with a false claim, and the beginning of the learner's refusal."""

    message: Callable[
        [random.Random, bytes, int, int, int], m.Message
    ]  # rng, sid, generation, offset, credit
    reason: str


FALSE_CLAIMS = (
    FalseClaim(false_heartbeat, "expected at most"),
    FalseClaim(false_skip, "expected at most"),
    FalseClaim(second_hello, "expected one session on a connection, got a second"),
    FalseClaim(unreadable_chunk, "expected a chunk of this run, got an unreadable one"),
    FalseClaim(damaged_chunk, "expected an undamaged, full chunk within its credit, got another"),
)
