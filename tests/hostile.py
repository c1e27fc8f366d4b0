"""A peer that is let in and means harm: lies, damage and floods, seeded, over one connection.

One connection, because a ban is meant to hit whoever is behind it: with keys a new one is of no use.
"""

from __future__ import annotations

import os
import random
import threading
import time
import zlib
from types import TracebackType
from typing import Self

import zmq

from common import messages as m
from common import wire
from learner.conduct import BAN_SECONDS
from tests.mutants import CORPUS, mutant

_ANSWER_SECONDS = 0.1


class HostilePeer:
    """Attacks a learner from a thread of its own, as long as the block lasts; counts what it did."""

    def __init__(self, data_endpoint: str, weights_endpoint: str, seed: int) -> None:
        self._endpoints, self._rng = (data_endpoint, weights_endpoint), random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = self.told_off = 0
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
        epoch, offset, credit, banned = 0, 0, 0, False
        self._send(
            data, m.Hello(sid=sid, epoch=-1, host="host", pid=1, software="0", base=0, produced=0, former={})
        )
        while not banned and not self._stop.is_set():
            while data.poll(int(_ANSWER_SECONDS * 1000)):
                match wire.decode(data.recv_multipart()):
                    case m.Welcome() as welcome:
                        epoch, credit = welcome.epoch, welcome.credit
                    case m.Ack() as ack:
                        offset, credit = ack.received, ack.credit
                    case m.Reject(code="lost"):
                        banned = True
                        self.told_off += 1
            for _ in range(4):
                self._send(rng.choice([data, weights]), mutant(*whole(rng.choice(CORPUS)), rng))
                self._send(data, lie(rng.randrange(len(LIES)), rng, sid, epoch, offset, credit))
            self._send(weights, m.WeightsRequest(name="bundle", epoch=-1, version=-1, piece=0, count=1 << 40))
        until = time.monotonic() + BAN_SECONDS
        while time.monotonic() < until and not self._stop.is_set():
            self._send(data, m.Heartbeat(sid=sid, epoch=epoch, produced=offset, stats={}))

    def _send(self, socket: zmq.Socket[bytes], message: m.Message | list[bytes]) -> None:
        parts = message if isinstance(message, list) else wire.encode(message)
        try:
            socket.send_multipart(parts)
            self.sent += 1
        except zmq.Again:
            pass  # nobody reads as fast as we talk


def whole(message: m.Message) -> tuple[m.Message, list[bytes]]:
    """A message and its parts."""
    return message, wire.encode(message)


LIES = (  # how the learner refuses each lie of `lie`
    "expected at most",
    "expected at most",
    "expected one session on a connection, got a second",
    "expected a chunk of this run, got an unreadable one",
    "expected a whole, undamaged chunk within credit, got another",
)


def lie(number: int, rng: random.Random, sid: bytes, epoch: int, offset: int, credit: int) -> m.Message:
    """A well-formed message of a session that cannot be true; `number` is an index of `LIES`."""
    steps = max(1, credit - offset)
    body = rng.randbytes(500)
    match number:
        case 0:
            return m.Heartbeat(sid=sid, epoch=epoch, produced=1 << 60, stats={"phase_" + "x" * 200: 1e308})
        case 1:
            return m.Skip(
                sid=sid, epoch=epoch, offset=offset, steps=1 << 60, produced=1 << 60, reason="epoch"
            )
        case 2:
            text = "x" * 256
            return m.Hello(
                sid=os.urandom(16), epoch=-1, host=text, pid=1, software=text, base=0, produced=0, former={}
            )
        case _:  # with credit an undamaged one is taken for a chunk, until it is unpacked
            return m.ChunkMessage(
                sid=sid,
                epoch=epoch,
                version=0,
                offset=offset,
                steps=steps,
                produced=offset + steps,
                fresh=True,
                truncations=0,
                observation_bytes=100,
                crc=zlib.crc32(body) if number == 3 else 1,
                body=body,
            )
