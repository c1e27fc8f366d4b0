"""A peer whose chunks a test can send twice, late, and again after they were settled."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Self

import numpy as np

from common.protocol import codec
from common.protocol.chunk import Chunk
from common.protocol.messages import Bye, ByeAck, Message, Resend
from common.protocol.sockets import Context
from tests.support.processes import wait_until
from tests.support.protocol_peer import SessionPeer

_IDENTITY = (123_456, 654_321)  # of its lanes, in the observations of `tests.support.counted`


class Replayer(SessionPeer):
    """One session; `frames` maps the offset of each chunk to its encoded message."""

    def __init__(self, port: int, steps: int, lanes: int, count_file: Path) -> None:
        super().__init__(Context(), f"tcp://127.0.0.1:{port}")
        self._steps, self._lanes, self._count_file = steps, lanes, count_file
        self.frames = dict[int, list[bytes]]()
        self.left = False
        self.resends = 0

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *error: object) -> None:
        self.context.raw.destroy(linger=0)

    def on_message(self, message: Message) -> None:
        """Record also the requests for a chunk, and the answer to Bye."""
        super().on_message(message)
        self.resends += isinstance(message, Resend)
        self.left |= isinstance(message, ByeAck)

    def send_chunk(self, offset: int) -> None:
        """Send the recorded chunk that begins at `offset`."""
        self.send_parts(self.frames[offset])

    def record(self) -> int:
        """Make the next chunk without sending it; return its offset."""
        offset, steps = self.produced, self._steps * self._lanes
        packed = codec.pack(self._make_chunk(offset // self._lanes))
        self.produced += steps
        self._count_file.write_bytes(struct.pack("=Q", self.produced))
        message = packed.message(
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

    def _make_chunk(self, first_step: int) -> Chunk:
        """Make a chunk whose observations identify the lane and the step."""
        grid = (self._steps, self._lanes)
        observation = np.empty((self._steps + 1, self._lanes, 3), np.float32)
        observation[..., 0] = _IDENTITY[0]
        observation[..., 1] = _IDENTITY[1] + np.arange(self._lanes)
        observation[..., 2] = first_step + np.arange(self._steps + 1)[:, None]
        never = np.zeros(grid, np.bool_)
        return Chunk(
            observation=observation,
            final_observation=observation[0, :0],
            action=np.zeros(grid, np.int32),
            log_prob=np.full(grid, -0.7, np.float32),
            reward=np.ones(grid, np.float32),
            terminated=never,
            truncated=never,
            life_lost=never,
            room=np.zeros(grid, np.uint8),
            bonus=np.zeros(grid, np.float32),
        )

    def wait_credit(self) -> None:
        """Wait until another chunk may be made."""
        steps = self._steps * self._lanes
        wait_until(lambda: self.credit >= self.produced + steps, "credit", between=lambda: self.receive(0.5))

    def leave(self) -> None:
        """Repeat the Bye until the learner answers it."""

        def request() -> None:
            self.send(Bye(sid=self.sid, produced=self.produced))
            self.receive(1.0)

        wait_until(lambda: self.left, "a ByeAck", between=request)
