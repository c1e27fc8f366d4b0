"""Fetching weights: over the protocol, and through the parent of several actors."""

from __future__ import annotations

import hashlib
import socket
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import cast

import numpy as np
import pytest

import actor.weights
from actor.fleet import Fleet
from actor.metrics import FleetCollector
from actor.weights import Blob, SharedWeights, WeightsClient
from common.process.children import Child, ChildProcesses
from common.process.parent_link import ParentLink
from common.protocol import codec
from common.protocol.messages import (
    BlobName,
    Message,
    WeightsMeta,
    WeightsPiece,
    WeightsRequest,
    WeightsUnchanged,
)
from common.protocol.sockets import DealerSocket
from tests.support.clock import Clock

NONE = (-1, -1)
PIECE_BYTES = 10
PIECES = 19  # more than two requests of eight pieces
DATA = np.random.default_rng(0).bytes(PIECE_BYTES * PIECES - 3)
META = WeightsMeta(
    name="bundle",
    generation=2,
    version=5,
    size=len(DATA),
    pieces=PIECES,
    digest=hashlib.sha256(DATA).digest(),
)


class Learner:
    """Stands for the socket of a client: the weights port of a learner, which may lose or damage pieces."""

    def __init__(
        self, clock: Clock, alter: Callable[[WeightsPiece], WeightsPiece | None] = lambda x: x
    ) -> None:
        self._clock, self._alter = clock, alter
        self._outbox: deque[Message] = deque()
        self.requests: list[WeightsRequest] = []
        self.closed = 0

    def send(self, parts: list[bytes]) -> bool:
        """Called by the client."""
        request = codec.decode(parts)
        assert isinstance(request, WeightsRequest)
        self.requests.append(request)
        if request.piece == 0 and (request.generation, request.version) == (META.generation, META.version):
            self._outbox.append(WeightsUnchanged(name=request.name))
            return True
        if request.piece == 0:
            self._outbox.append(META)
        for number in range(request.piece, min(PIECES, request.piece + request.count)):
            body = DATA[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
            piece = self._alter(WeightsPiece(name="bundle", generation=2, version=5, piece=number, body=body))
            if piece is not None:
                self._outbox.append(piece)
        return True

    def receive(self, timeout_seconds: float = 0.0, also: int | None = None) -> list[bytes] | None:
        """Called by the client; an empty queue lets the time of the wait pass."""
        if self._outbox:
            return codec.encode(self._outbox.popleft())
        self._clock.now += timeout_seconds
        return None

    def close(self, linger_seconds: float = 0.0) -> None:
        """Called by the client."""
        self.closed += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(actor.weights, "time", clock)
    return clock


def client_of(learner: Learner) -> WeightsClient:
    return WeightsClient(lambda: cast(DealerSocket, learner))


def once(
    number: int, change: Callable[[WeightsPiece], WeightsPiece | None]
) -> Callable[[WeightsPiece], WeightsPiece | None]:
    """Change the first copy of one piece."""
    pending = {number}

    def alter(piece: WeightsPiece) -> WeightsPiece | None:
        if piece.piece not in pending:
            return piece
        pending.remove(piece.piece)
        return change(piece)

    return alter


def test_a_blob_of_several_requests_arrives_whole(clock: Clock) -> None:
    learner = Learner(clock)
    start = clock.now
    assert client_of(learner).fetch("bundle", NONE, lambda: True) == Blob(2, 5, DATA)
    assert [request.piece for request in learner.requests] == [0, 8, 16]
    assert clock.now == start  # the client did not wait


def test_a_version_that_the_client_holds_is_not_sent_again(clock: Clock) -> None:
    learner = Learner(clock)
    assert client_of(learner).fetch("bundle", (2, 5), lambda: True) is None
    assert len(learner.requests) == 1 and learner.closed == 0


@pytest.mark.parametrize("number", [0, 3, 8, 18])
def test_a_lost_piece_is_requested_again(number: int, clock: Clock) -> None:
    """A repeated request for the first piece must not name its version as held."""
    learner = Learner(clock, once(number, lambda piece: None))
    assert client_of(learner).fetch("bundle", NONE, lambda: True) == Blob(2, 5, DATA)
    assert number in [request.piece for request in learner.requests]


def test_a_blob_whose_digest_differs_is_fetched_again(clock: Clock) -> None:
    learner = Learner(clock, once(3, lambda piece: replace(piece, body=bytes(PIECE_BYTES))))
    assert client_of(learner).fetch("bundle", NONE, lambda: True) == Blob(2, 5, DATA)


def test_a_fetch_that_is_ended_replaces_the_connection(clock: Clock) -> None:
    """Pieces that arrive later do not reach the next fetch."""
    learner = Learner(clock, lambda piece: None)
    start = clock.now
    assert client_of(learner).fetch("bundle", NONE, lambda: clock.now < start + 1.0) is None
    assert learner.closed == 1


class Store:
    """Stands for the parent's client; `version` is the newest."""

    def __init__(self) -> None:
        self.version, self.fetches = 5, 0

    def fetch(self, name: BlobName, held: tuple[int, int], keep_waiting: Callable[[], bool]) -> Blob | None:
        self.fetches += 1
        return None if held == (2, self.version) else Blob(2, self.version, b"%d" % self.version)

    def reconnect(self) -> None:
        """There is no connection."""

    def close(self) -> None:
        """There is no connection."""


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[tuple[Store, list[SharedWeights]]]:
    """The source of a parent's weights, and the weights of its two actors."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    links = [ParentLink(theirs.detach()) for _, theirs in pairs]
    children = [Child(number, [], socket=ours) for number, (ours, _) in enumerate(pairs)]
    owner = cast(ChildProcesses, type("Owner", (), {"children": children})())
    store, stop = Store(), Event()
    fleet = Fleet(owner, store, tmp_path, FleetCollector())

    def serve() -> None:
        while not stop.is_set():
            fleet.serve_notes(stop)

    thread = Thread(target=serve)
    thread.start()
    yield store, [SharedWeights(link) for link in links]
    stop.set()
    links[0].send({"stats": {}})  # ends the wait
    thread.join()
    for (ours, _), link in zip(pairs, links, strict=True):
        ours.close()
        link.close()


def test_a_parent_fetches_a_version_once_for_all_its_actors(
    shared: tuple[Store, list[SharedWeights]],
) -> None:
    store, (first, second) = shared
    assert first.fetch("bundle", NONE, lambda: True) == Blob(2, 5, b"5")
    assert second.fetch("bundle", NONE, lambda: True) == Blob(2, 5, b"5")
    assert store.fetches == 1


def test_an_actor_that_holds_the_newest_version_gets_none_until_there_is_another(
    shared: tuple[Store, list[SharedWeights]],
) -> None:
    store, (first, _) = shared
    assert first.fetch("bundle", NONE, lambda: True) == Blob(2, 5, b"5")
    assert first.fetch("bundle", (2, 5), lambda: True) is None
    store.version = 6
    assert first.fetch("bundle", (2, 5), lambda: True) == Blob(2, 6, b"6")


def test_the_previous_version_stays_readable_and_older_ones_are_deleted(
    shared: tuple[Store, list[SharedWeights]], tmp_path: Path
) -> None:
    store, (first, _) = shared
    for version in (5, 6, 7):
        store.version = version
        first.fetch("bundle", (2, version - 1), lambda: True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"bundle-2-{version}.safetensors" for version in (6, 7)
    ]
