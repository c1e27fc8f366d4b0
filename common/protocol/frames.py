"""Reads the messages of a ROUTER in turns of a bounded number of frames. It uses no socket.

A message may have any number of parts. libzmq hands it over when it is complete, and its parts follow each
other, so the messages of all other peers wait behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

FRAMES_PER_TURN = 256
PARTS = 2  # the most of a legal message


class Frame(Protocol):
    """One frame of a message: the routing id of its peer, or one part."""

    @property
    def more(self) -> bool:
        """Whether another frame of the same message follows."""
        ...

    @property
    def bytes(self) -> bytes:
        """The content."""
        ...

    def __len__(self) -> int: ...


F = TypeVar("F", bound=Frame)


@dataclass(slots=True)
class RoutedMessage(Generic[F]):
    """A message with at most two of its parts. The others are discarded."""

    routing_id: F
    parts: list[bytes]
    excess_parts: int = 0  # number of discarded parts
    excess_bytes: int = 0  # of the discarded parts


class Received(NamedTuple):
    """A message that a ROUTER received, with at most two of its parts."""

    peer: bytes  # routing id of the connection
    key: str  # public key of the peer, empty without a ZAP handler
    parts: list[bytes]
    excess_parts: int  # number of parts that were discarded
    excess_bytes: int  # of the discarded parts


class MessageReader(Generic[F]):
    """Reads messages; `receive` returns the next frame, or raises an exception if none waits."""

    def __init__(self, receive: Callable[[], F]) -> None:
        self._receive = receive
        self._unfinished: RoutedMessage[F] | None = None

    @property
    def discarding(self) -> bool:
        """Whether a message of too many parts has parts that are not read yet."""
        return self._unfinished is not None

    def read_turn(self) -> Iterator[RoutedMessage[F]]:
        """Yield messages, of at most `FRAMES_PER_TURN` frames together.

        A message of more frames continues in the next turns. The turn that completes it ends with it, so that
        the caller acts between two such messages.
        """
        if self._unfinished is not None:
            message = self._unfinished
            if self._discard(message, FRAMES_PER_TURN):
                yield message
            return
        receive, frames_left = self._receive, FRAMES_PER_TURN
        while frames_left > PARTS:
            routing_id, part = receive(), receive()
            parts = [part.bytes]
            if part.more:
                part = receive()
                parts.append(part.bytes)
            frames_left -= 1 + len(parts)
            message = RoutedMessage(routing_id, parts)
            if part.more:
                if not self._discard(message, frames_left):
                    return
                frames_left -= message.excess_parts
            yield message

    def _discard(self, message: RoutedMessage[F], frames: int) -> bool:
        """Discard at most `frames` parts; return whether the message is complete."""
        self._unfinished = message
        for _ in range(frames):
            part = self._receive()
            message.excess_parts += 1
            message.excess_bytes += len(part)
            if not part.more:
                self._unfinished = None
                return True
        return False
