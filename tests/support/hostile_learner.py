"""A learner on real sockets that accepts every session with a configuration of the test's choice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from common.protocol import codec
from common.protocol import messages as m
from common.protocol.sockets import Context, RouterSocket
from tests.support.background import Background
from tests.support.processes import free_port

_UNLIMITED = 1 << 61
_MESSAGE_BYTES = 1 << 28


class HostileLearner(Background):
    """Serves both ports from its own thread during the block, and records every part that it receives.

    Args:
        configuration: the body of its Welcome.
        weights: the bytes of every blob.
        flood: messages that it sends without end to each actor that has joined.
    """

    def __init__(self, configuration: bytes, weights: bytes = b"", flood: Sequence[m.Message] = ()) -> None:
        super().__init__()
        self.port = free_port()
        self.parts: list[bytes] = []
        self.kinds: set[type[m.Message]] = set()
        self.hellos: list[m.Hello] = []
        self.flooded = 0  # messages of the flood that were queued
        self._configuration, self._weights, self._flood = configuration, weights, flood
        self._peers: set[bytes] = set()

    def work(self) -> None:
        """Serve until the end of the block."""
        with Context() as context:
            data, weights = (RouterSocket(context, _MESSAGE_BYTES) for _ in range(2))
            for socket, port in ((data, self.port), (weights, self.port + 1)):
                socket.bind(f"tcp://127.0.0.1:{port}")
            while not self.stopped.is_set():
                data.raw.poll(0 if self._flood and self._peers else 10)
                for socket in (data, weights):
                    for message in socket.receive():
                        self._answer(socket, message.peer, message.parts)
                for peer in self._peers:
                    self.flooded += sum(data.send(peer, codec.encode(flooding)) for flooding in self._flood)

    def _answer(self, socket: RouterSocket, peer: bytes, parts: list[bytes]) -> None:
        message = codec.decode(parts)
        self.parts += parts
        self.kinds.add(type(message))
        match message:
            case m.Hello():
                self.hellos.append(message)
                self._peers.add(peer)
                socket.send(peer, codec.encode(self._welcome(message)))
            case m.WeightsRequest():
                for answer in self._blob(message.name):
                    socket.send(peer, codec.encode(answer))
            case m.Bye():
                socket.send(peer, codec.encode(m.ByeAck()))

    def _welcome(self, hello: m.Hello) -> m.Welcome:
        return m.Welcome(
            sid=hello.sid,
            generation=0,
            slot=0,
            incarnation=0,
            received=0,
            settled=0,
            credit=_UNLIMITED,
            version=0,
            target=hashlib.sha256(self._weights).digest(),
            heartbeat_ms=_UNLIMITED,
            lease_ms=_UNLIMITED,
            software="9.9",
            body=self._configuration,
        )

    def _blob(self, name: m.BlobName) -> tuple[m.Message, ...]:
        size, digest = len(self._weights), hashlib.sha256(self._weights).digest()
        meta = m.WeightsMeta(name=name, generation=0, version=0, size=size, pieces=1, digest=digest)
        return meta, m.WeightsPiece(name=name, generation=0, version=0, piece=0, body=self._weights)
