"""Messages of many parts: frames per turn, the parts that are kept, and the order of what follows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import pytest

from common.protocol.frames import FRAMES_PER_TURN, MessageReader, RoutedMessage


class NoFrameError(Exception):
    """No frame waits."""


@dataclass(frozen=True)
class FakeFrame:
    """A frame of a socket."""

    bytes: bytes
    more: bool

    def __len__(self) -> int:
        return len(self.bytes)


Message = tuple[bytes, list[bytes], int, int]  # peer, kept parts, number and bytes of the discarded parts


class Reader:
    """A reader of waiting messages, which counts the frames of each turn."""

    def __init__(self) -> None:
        self.waiting: deque[FakeFrame] = deque()
        self.frames = 0
        self.reader = MessageReader(self._receive)

    def _receive(self) -> FakeFrame:
        if not self.waiting:
            raise NoFrameError
        self.frames += 1
        return self.waiting.popleft()

    def add(self, peer: bytes, *parts: bytes) -> None:
        frames = (peer, *parts)
        self.waiting += [FakeFrame(frame, True) for frame in frames[:-1]]
        self.waiting.append(FakeFrame(frames[-1], False))

    def read_turn(self, messages: int | None = None) -> list[Message]:
        """Run one turn, or its first messages; checks the number of frames that it reads."""
        self.frames = 0
        found: list[RoutedMessage[FakeFrame]] = []
        try:
            for message in self.reader.read_turn():
                found.append(message)
                if len(found) == messages:
                    break
        except NoFrameError:
            pass
        assert self.frames <= FRAMES_PER_TURN
        return [(one.routing_id.bytes, one.parts, one.excess_parts, one.excess_bytes) for one in found]


@pytest.fixture
def reader() -> Reader:
    return Reader()


def test_messages_of_one_or_two_parts_are_whole(reader: Reader) -> None:
    reader.add(b"a", b"head")
    reader.add(b"b", b"head", b"body")
    assert reader.read_turn() == [(b"a", [b"head"], 0, 0), (b"b", [b"head", b"body"], 0, 0)]


def test_the_first_two_parts_are_kept_and_the_others_are_counted(reader: Reader) -> None:
    reader.add(b"a", b"head", b"body", b"", b"xyz", b"xy")
    reader.add(b"b", b"head")
    assert reader.read_turn() == [(b"a", [b"head", b"body"], 3, 5), (b"b", [b"head"], 0, 0)]
    assert not reader.reader.discarding


def test_a_turn_reads_a_bounded_number_of_frames_and_no_message_in_part(reader: Reader) -> None:
    """256 frames are 85 messages of two parts and a routing id each; no message fits in the last frame."""
    for number in range(200):
        reader.add(b"a", b"head", b"%d" % number)
    turns = [reader.read_turn() for _ in range(3)]
    assert [len(turn) for turn in turns] == [85, 85, 30]
    assert [parts[1] for turn in turns for _, parts, *_ in turn] == [b"%d" % number for number in range(200)]


@pytest.mark.parametrize("excess", [1, 252, 253, 254, 509, 510, 10_000])
def test_a_message_of_many_parts_takes_many_turns_and_the_next_message_follows_whole(
    reader: Reader, excess: int
) -> None:
    """The first turn reads three frames more of it: the routing id and the two parts that are kept."""
    reader.add(b"a", b"head", b"body", *[b"x"] * excess)
    reader.add(b"b", b"head", b"body")
    turns = 1
    while not (found := reader.read_turn()):
        assert reader.reader.discarding
        turns += 1
    assert turns == -(-(excess + 3) // FRAMES_PER_TURN)
    assert found[0] == (b"a", [b"head", b"body"], excess, excess)
    assert not reader.reader.discarding
    assert [*found[1:], *reader.read_turn()] == [(b"b", [b"head", b"body"], 0, 0)]


def test_the_turn_that_completes_a_message_of_many_parts_ends_with_it(reader: Reader) -> None:
    """Otherwise such a message could follow in each turn, and the caller would never act between two."""
    for peer in (b"a", b"b"):
        reader.add(peer, *[b""] * (FRAMES_PER_TURN + 1))
    assert reader.read_turn() == [] and reader.reader.discarding
    assert reader.read_turn() == [(b"a", [b"", b""], FRAMES_PER_TURN - 1, 0)]
    assert not reader.reader.discarding


def test_a_caller_may_end_a_turn_after_any_message(reader: Reader) -> None:
    reader.add(b"a", *[b""] * (FRAMES_PER_TURN + 1))
    for peer in (b"b", b"c"):
        reader.add(peer, b"head", b"body", b"more")
    assert reader.read_turn() == []
    turns = [reader.read_turn(messages=1) for _ in range(3)]
    assert [peer for turn in turns for peer, *_ in turn] == [b"a", b"b", b"c"]
