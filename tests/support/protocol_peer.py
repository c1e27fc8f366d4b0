"""The base classes of the peers of a learner under test: connection, Hello and deadlines."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from types import UnionType

import zmq

from common.keys.curve import ActorKeys
from common.protocol import codec, messages
from common.protocol.messages import Message
from common.protocol.sockets import Context, DealerSocket
from tests.support.processes import PATIENCE_SECONDS, holds_within, wait_until
from tests.support.wire_fuzz import hello

MESSAGE_BYTES = 1 << 20


class ObservedSocket(DealerSocket):
    """A connection that also passes every received message to an observer."""

    def __init__(
        self,
        context: Context,
        endpoint: str,
        keys: ActorKeys | None,
        watched: bool,
        observe: Callable[[Message], None],
    ) -> None:
        super().__init__(context, endpoint, MESSAGE_BYTES, keys, watched)
        self._observe = observe

    def receive(self, timeout_seconds: float = 0.0, wake_descriptor: int | None = None) -> list[bytes] | None:
        parts = super().receive(timeout_seconds, wake_descriptor)
        if parts is not None:
            self._observe(codec.decode(parts))
        return parts


class ProtocolPeer:
    """One data connection to a learner; `on_message` is called with every message that arrives on it."""

    def __init__(
        self, context: Context, endpoint: str, keys: ActorKeys | None = None, watched: bool = False
    ) -> None:
        self.context, self._endpoint, self._keys, self._watched = context, endpoint, keys, watched

    def connect(self) -> DealerSocket:
        """Open the connection, or a new one; it belongs to the calling thread."""
        self.socket = ObservedSocket(self.context, self._endpoint, self._keys, self._watched, self.on_message)
        return self.socket

    def on_message(self, message: Message) -> None:
        """Handle a message from the learner."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


class SessionPeer(ProtocolPeer):
    """A peer whose test sends each message of a session; it records the learner's answers."""

    def __init__(
        self, context: Context, endpoint: str, keys: ActorKeys | None = None, watched: bool = False
    ) -> None:
        super().__init__(context, endpoint, keys, watched)
        self.sid, self.produced = secrets.token_bytes(16), 0
        self.generation = self.version = -1
        self.received = self.settled = self.credit = 0
        self.joined = False

    def on_message(self, message: Message) -> None:
        """Record the learner's answers about this session."""
        match message:
            case messages.Welcome():
                self.joined, self.generation = True, message.generation
                self._record_flow(message)
            case messages.Ack():
                self._record_flow(message)
            case messages.HelloRequired() | messages.Reject():
                self.joined = False

    def _record_flow(self, message: messages.Welcome | messages.Ack) -> None:
        self.received, self.settled = message.received, message.settled
        self.credit, self.version = message.credit, message.version

    def send_parts(self, parts: list[bytes]) -> None:
        """Send as soon as there is a connection with room for the message."""
        wait_until(lambda: self.socket.send(parts), "a connection", between=self._wait_for_room)

    def _wait_for_room(self) -> None:
        self.socket.raw.poll(100, zmq.POLLOUT)

    def send(self, message: Message) -> None:
        """Encode and send a message."""
        self.send_parts(codec.encode(message))

    def receive(self, seconds: float) -> Message | None:
        """Return the next message; None after the time."""
        parts = self.socket.receive(seconds)
        return codec.decode(parts) if parts is not None else None

    def receive_kind(
        self, kind: type[Message] | UnionType, seconds: float = PATIENCE_SECONDS
    ) -> Message | None:
        """Return the next message of a kind; None after the time."""
        found: list[Message] = []

        def receive() -> None:
            message = self.receive(0.05)
            if isinstance(message, kind):
                found.append(message)

        return found[0] if holds_within(lambda: found, seconds, receive) else None

    def hello(self) -> messages.Hello:
        """The Hello of this session, the first or a later one."""
        return hello(self.sid, self.generation, self.settled, self.produced)

    def join(self) -> None:
        """Repeat the Hello until the learner accepts it: a Hello may be lost with its connection."""

        def request() -> None:
            self.send(self.hello())
            self.receive_kind(messages.Welcome, 2.0)

        wait_until(lambda: self.joined, "a Welcome", between=request)

    def rejoin(self) -> None:
        """Send another Hello of the same session, and wait until the learner accepts it."""
        self.joined = False
        self.join()
