"""A peer that is let in and means harm: lies, damage and floods, seeded, over one connection.

One connection, because a ban is meant to hit whoever is behind it: with keys a new one is of no use.
"""

from __future__ import annotations

import dataclasses
import os
import random
import threading
import time
import zlib
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

import zmq

from common.protocol import codec
from common.protocol import messages as m
from learner.server.rate_limit import BAN_SECONDS
from tests.support.wire_fuzz import CORPUS, hello, mutant

_ANSWER_SECONDS = 0.1


class HostilePeer:
    """Attacks a learner from a thread of its own, as long as the block lasts; counts what it did."""

    def __init__(self, data_endpoint: str, weights_endpoint: str, seed: int) -> None:
        self._endpoints, self._rng = (data_endpoint, weights_endpoint), random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = self.told_off = 0
        self.chunks = 0  # sent or tried; none of them can be read
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

    def _run(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            with context.socket(zmq.DEALER) as data, context.socket(zmq.DEALER) as weights:
                for socket, endpoint in ((data, self._endpoints[0]), (weights, self._endpoints[1])):
                    socket.setsockopt(zmq.LINGER, 0)
                    socket.setsockopt(zmq.SNDTIMEO, 100)  # a learner that throttles us makes us wait
                    socket.connect(endpoint)
                while not self._stop.is_set():
                    self._live(data, weights)
        except BaseException as error:  # noqa: BLE001  # the test raises it
            self.error = error
        finally:
            context.destroy(linger=0)

    def _live(self, data: zmq.Socket[bytes], weights: zmq.Socket[bytes]) -> None:
        """Join honestly, then say anything until banned, then flood until heard again."""
        rng, sid = self._rng, os.urandom(16)
        generation, offset, credit, banned = 0, 0, 0, False
        self._send(data, hello(sid))
        while not banned and not self._stop.is_set():
            while data.poll(int(_ANSWER_SECONDS * 1000)):
                match codec.decode(data.recv_multipart()):
                    case m.Welcome() as welcome:
                        generation, credit = welcome.generation, welcome.credit
                    case m.Ack() as ack:
                        offset, credit = ack.received, ack.credit
                    case m.Reject(code="lost"):
                        banned = True
                        self.told_off += 1
            for _ in range(4):
                message = rng.choice(CORPUS)
                self._send(rng.choice([data, weights]), mutant(message, codec.encode(message), rng))
                lie = rng.choice(LIES).message(rng, sid, generation, offset, credit)
                self._send(data, lie)
                self.chunks += sum(isinstance(one, m.ChunkMessage) for one in (message, lie))
            self._send(
                weights, m.WeightsRequest(name="bundle", generation=-1, version=-1, piece=0, count=1 << 40)
            )
        until = time.monotonic() + BAN_SECONDS
        while time.monotonic() < until and not self._stop.is_set():
            self._send(data, m.Heartbeat(sid=sid, generation=generation, produced=offset, stats={}))

    def _send(self, socket: zmq.Socket[bytes], message: m.Message | list[bytes]) -> None:
        parts = message if isinstance(message, list) else codec.encode(message)
        try:
            socket.send_multipart(parts)
            self.sent += 1
        except zmq.Again:
            pass  # nobody reads as fast as we talk


def false_heartbeat(rng: random.Random, sid: bytes, generation: int, offset: int, credit: int) -> m.Message:
    """More steps than any credit allows."""
    return m.Heartbeat(sid=sid, generation=generation, produced=1 << 60, stats={"phase_" + "x" * 200: 1e308})


def false_skip(rng: random.Random, sid: bytes, generation: int, offset: int, credit: int) -> m.Message:
    """A gap of more steps than any credit allows."""
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
    """An undamaged body of noise: within credit it takes a place until it is unpacked."""
    body, steps = rng.randbytes(500), max(1, credit - offset)
    return m.ChunkMessage(
        sid=sid,
        generation=generation,
        version=0,
        offset=offset,
        steps=steps,
        produced=offset + steps,
        fresh=True,
        truncations=0,
        observation_bytes=100,
        crc=zlib.crc32(body),
        body=body,
    )


def damaged_chunk(rng: random.Random, sid: bytes, generation: int, offset: int, credit: int) -> m.Message:
    """A body that does not match its checksum."""
    return dataclasses.replace(unreadable_chunk(rng, sid, generation, offset, credit), crc=1)


class Lie(NamedTuple):
    """A well-formed message that cannot be true, and how the learner begins to refuse it."""

    message: Callable[
        [random.Random, bytes, int, int, int], m.Message
    ]  # rng, sid, generation, offset, credit
    reason: str


LIES = (
    Lie(false_heartbeat, "expected at most"),
    Lie(false_skip, "expected at most"),
    Lie(second_hello, "expected one session on a connection, got a second"),
    Lie(unreadable_chunk, "expected a chunk of this run, got an unreadable one"),
    Lie(damaged_chunk, "expected a whole, undamaged chunk within credit, got another"),
)
