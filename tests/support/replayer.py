"""A peer that speaks the protocol by hand: it plays chunks of noise, and says things twice, late, again."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from types import TracebackType

import numpy as np
import zmq

from common.protocol import codec, messages
from common.protocol.chunk import Chunk
from common.protocol.messages import Ack, Bye, ByeAck, HelloRequired, Reject, Resend, Welcome
from tests.support.wire_fuzz import hello

_IDENTITY = (123_456, 654_321)


class Replayer:
    """One session. `frames` are all chunks as they were first sent, by offset."""

    def __init__(self, port: int, steps: int, lanes: int, count_file: Path) -> None:
        self._steps, self._lanes, self._count_file = steps, lanes, count_file
        self.sid, self.produced, self.frames = os.urandom(16), 0, dict[int, list[bytes]]()
        self.generation, self.version, self.settled, self.received, self.credit = -1, -1, 0, 0, 0
        self.joined = self.gone = False
        self.resends = 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 100)
        self._socket.connect(f"tcp://127.0.0.1:{port}")

    def __enter__(self) -> Replayer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._context.term()

    def send(self, offset: int) -> None:
        """The recorded chunk that begins at `offset`."""
        self._socket.send_multipart(self.frames[offset])

    def record(self) -> int:
        """Make the next chunk, without sending it; returns its offset."""
        offset, grid = self.produced, (self._steps, self._lanes)
        made = offset // self._lanes + np.arange(self._steps + 1, dtype=np.float32)
        observation = np.empty((self._steps + 1, self._lanes, 3), np.float32)
        for lane in range(self._lanes):
            observation[:, lane] = np.stack(
                [np.full_like(made, _IDENTITY[0]), np.full_like(made, _IDENTITY[1] + lane), made], axis=1
            )
        never = np.zeros(grid, np.bool_)
        chunk = Chunk(
            observation=observation,
            final_observation=observation[0, :0],
            action=np.zeros(grid, np.int32),
            log_prob=np.full(grid, -0.7, np.float32),
            reward=np.ones(grid, np.float32),
            terminated=never,
            truncated=never,
            bonus=np.zeros(grid, np.float32),
        )
        steps = self._steps * self._lanes
        self.produced += steps
        self._count_file.write_bytes(struct.pack("=Q", self.produced))
        message = codec.pack(chunk).message(
            sid=self.sid,
            generation=self.generation,
            version=self.version,
            offset=offset,
            steps=steps,
            produced=self.produced,
            fresh=offset == 0,
        )
        self.frames[offset] = codec.encode(message)
        return offset

    def hear(self, seconds: float) -> messages.Message | None:
        """The next answer, taken to heart; None after the time."""
        if not self._socket.poll(int(seconds * 1000)):
            return None
        message = codec.decode(self._socket.recv_multipart())
        match message:
            case Welcome():
                self.joined, self.generation = True, message.generation
                self.received, self.settled = message.received, message.settled
                self.credit, self.version = message.credit, message.version
            case Ack():
                self.received, self.settled = message.received, message.settled
                self.credit, self.version = message.credit, message.version
            case Resend():
                self.resends += 1
            case HelloRequired() | Reject():
                self.joined = False
            case ByeAck():
                self.gone = True
        return message

    def join(self, seconds: float = 120.0) -> None:
        """Hello until welcomed."""
        end = time.monotonic() + seconds
        while not self.joined:
            assert time.monotonic() < end, "expected a Welcome"
            message = hello(self.sid, self.generation, self.settled, self.produced)
            self._socket.send_multipart(codec.encode(message))
            self.hear(1.0)

    def wait_credit(self, seconds: float = 60.0) -> None:
        """Until another chunk may be made."""
        end = time.monotonic() + seconds
        while self.credit < self.produced + self._steps * self._lanes:
            assert time.monotonic() < end, "expected credit"
            self.hear(0.5)

    def leave(self, seconds: float = 30.0) -> None:
        """Bye until it is answered."""
        end = time.monotonic() + seconds
        while not self.gone:
            assert time.monotonic() < end, "expected ByeAck"
            self._socket.send_multipart(codec.encode(Bye(sid=self.sid, produced=self.produced)))
            self.hear(1.0)
