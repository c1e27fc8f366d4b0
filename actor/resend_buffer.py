"""The encoded chunks and skips of one session that the learner has not settled."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from actor import limits
from common.protocol import codec
from common.protocol.messages import ChunkMessage, Skip

_OBJECTS_BYTES = 400  # of a kept message, at most


@dataclass(frozen=True, slots=True)
class _KeptMessage:
    """An encoded chunk or skip: the steps [offset, offset + steps) of its session."""

    offset: int
    steps: int
    parts: list[bytes]

    @property
    def size_bytes(self) -> int:
        """The memory that the message takes, with that of its objects."""
        return sum(map(len, self.parts)) + _OBJECTS_BYTES


class ResendBuffer:
    """Keeps each encoded message until its steps are settled, so that it can be sent again."""

    def __init__(self) -> None:
        self._messages: deque[_KeptMessage] = deque()
        self.size_bytes = 0  # of the kept messages
        self.encoded_steps = 0  # of the session: the offset of its next message

    @property
    def base(self) -> int:
        """The first offset that is kept or will be encoded next."""
        return self._messages[0].offset if self._messages else self.encoded_steps

    @property
    def unsettled_steps(self) -> int:
        """Steps of the messages that are kept."""
        return self.encoded_steps - self.base

    def encode(self, message: ChunkMessage | Skip) -> list[bytes]:
        """Encode and keep the next message; returns it encoded.

        Raises:
            Fatal: the learner grants credit and settles nothing, which would fill memory.
        """
        parts = codec.encode(message)
        kept = _KeptMessage(message.offset, message.steps, parts)
        self._messages.append(kept)
        self.size_bytes += kept.size_bytes
        limits.require_settled(self.size_bytes)
        self.encoded_steps += message.steps
        return parts

    def settle(self, offset: int) -> int:
        """Drop every message that ends at or before `offset`; returns how many."""
        count = 0
        while self._messages and self._messages[0].offset + self._messages[0].steps <= offset:
            self.size_bytes -= self._messages.popleft().size_bytes
            count += 1
        return count

    def since(self, offset: int) -> Iterator[list[bytes]]:
        """Every kept message that begins at or after `offset`, in order."""
        return (message.parts for message in self._messages if message.offset >= offset)
