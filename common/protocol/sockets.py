"""The ZeroMQ sockets: ROUTER on the learner, DEALER on the actor, and a wake-up between threads.

`send` never blocks, and its success does not mean delivery: only the protocol's acknowledgements do. A
socket belongs to the thread that made it. No routing id is set: a peer that reconnects is a new peer.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import socket as sockets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self, cast, get_args

import zmq

from common import addresses
from common.keys.curve import ActorKeys, ZapHandler
from common.keys.handshake import ClientHandshake, HandshakeMonitor, Refusal
from common.protocol.frames import MessageReader, Received
from common.protocol.unread import MEASURABLE, UnreadBytes

_SMALL_BYTES = 65_536  # from this size on, sending without a copy takes less time
_DONTWAIT, _DONTWAIT_MORE = int(zmq.DONTWAIT), int(zmq.DONTWAIT) | int(zmq.SNDMORE)


class BindError(Exception):
    """A socket cannot bind to an address."""


def is_loopback(endpoint: str) -> bool:
    """Whether the endpoint is reachable only from this machine."""
    if endpoint.startswith(("ipc://", "inproc://")):
        return True
    return addresses.is_loopback_host(addresses.host_and_port(endpoint)[0])


def weights_endpoint(endpoint: str) -> str:
    """The weights endpoint that belongs to a data endpoint: the next port, or the path with a suffix."""
    if endpoint.startswith("ipc://"):
        return endpoint + ".weights"
    head, _, port = endpoint.rpartition(":")
    return f"{head}:{int(port) + 1}"


def _set_options(socket: zmq.Socket[bytes], message_bytes: int) -> None:
    """Set the options that both kinds of sockets share; messages over `message_bytes` are refused."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, message_bytes)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5_000)
    # No HEARTBEAT_IVL: libzmq 4.3.5 aborts the process when a peer resets its connection while 16 of its
    # messages are unread and a heartbeat is due. Leases and TCP detect a lost peer.
    socket.setsockopt(zmq.TCP_MAXRT, 30_000)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)


class Context:
    """The ZeroMQ context with its I/O thread; closing it closes every socket made from it."""

    def __init__(self) -> None:
        self.raw: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.raw.set(10, 0)  # ZERO_COPY_RECV: a short message would keep a buffer of 18 KB

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.raw.destroy(linger=0)


class RouterSocket:
    """A ROUTER socket: many peers, each identified by the routing id of its present connection.

    With a ZAP handler, TCP peers need an authorised key; `refused` counts refused handshakes and messages.
    """

    def __init__(self, context: Context, message_bytes: int, zap_handler: ZapHandler | None = None) -> None:
        # A ROUTER numbers its connections from a start that it draws with C's `rand`, which libzmq does not
        # seed. A client could ask for the next number as its routing id: libzmq aborts if a number is in use.
        ctypes.CDLL(None).srand(int.from_bytes(os.urandom(4)))
        self.raw = context.raw.socket(zmq.ROUTER)
        _set_options(self.raw, message_bytes)
        self.raw.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.raw.setsockopt(zmq.SNDHWM, 64)
        self.raw.setsockopt(zmq.BACKLOG, 1024)
        self._zap_handler = zap_handler
        self.unread = UnreadBytes(message_bytes)
        self._monitor = HandshakeMonitor(self.raw, self.unread.accept)
        receive = cast(Callable[[], zmq.Frame], functools.partial(self.raw.recv, _DONTWAIT, copy=False))
        self._reader = MessageReader(receive)
        self.refused: Counter[str] = Counter(dict.fromkeys((*get_args(Refusal), "revoked"), 0))
        self.send_queue_full = 0  # messages that were not sent because the peer's queue was full

    def bind(self, endpoint: str) -> str:
        """Bind to `endpoint`; return it with the port in use.

        Raises:
            BindError: the address is taken, unknown or malformed.
        """
        if tcp := endpoint.startswith("tcp://"):
            self.raw.setsockopt(zmq.IPV6, int(endpoint.startswith(("tcp://*", "tcp://["))))
        # libzmq aborts if a connection is reset while this queue is full and a PING waits behind it.
        self.raw.setsockopt(zmq.RCVHWM, 0 if tcp and MEASURABLE else 16)
        if self._zap_handler is not None:
            self._zap_handler.configure(self.raw, endpoint)
        try:
            self.raw.bind(endpoint)
        except zmq.ZMQError as error:
            reason = error.strerror or str(error)
            raise BindError(
                f'expected to bind {endpoint}, got "{reason}": choose another --bind address or port'
            ) from None
        return self.raw.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")  # type: ignore[union-attr]

    @property
    def discarding(self) -> bool:
        """Whether the messages of all peers wait behind one of too many parts; see `MessageReader`."""
        return self._reader.discarding

    def receive(self) -> Iterator[Received]:
        """Yield the waiting messages of one turn; does not block."""
        self.refused.update(outcome for outcome in self._monitor.read() if outcome != "done")
        with contextlib.suppress(zmq.Again):
            for one in self._reader.read_turn():
                key = "" if self._zap_handler is None else self._zap_handler.owner(one.routing_id)
                message = Received(
                    one.routing_id.bytes, key or "", one.parts, one.excess_parts, one.excess_bytes
                )
                with contextlib.suppress(zmq.ZMQError):  # closed before libzmq could ask for its address
                    self.unread.count(int(one.routing_id.get(zmq.SRCFD)), message)
                if key is None:
                    self.refused["revoked"] += 1
                elif message.peer not in self.unread.dropped:
                    yield message
            return
        self.unread.dropped.clear()  # none of their messages are left

    def send(self, peer: bytes, parts: Sequence[bytes]) -> bool:
        """Queue a message for the peer; False if the peer has disconnected or its queue is full."""
        copy = sum(map(len, parts)) < _SMALL_BYTES
        try:
            # `send_multipart` takes twice the time, because it computes with enumeration members.
            self.raw.send(peer, _DONTWAIT_MORE)
            for part in parts[:-1]:
                self.raw.send(part, _DONTWAIT_MORE, copy=copy)
            self.raw.send(parts[-1], _DONTWAIT, copy=copy)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self.send_queue_full += error.errno == zmq.EAGAIN
            return False
        return True

    def close(self) -> None:
        """Close the socket; queued messages have one second to be sent."""
        self._monitor.close()
        self.raw.close(linger=1_000)


class DealerSocket:
    """A DEALER socket: a connection to one port of the learner, which libzmq reopens if it breaks.

    With `watched`, the socket monitors its handshakes, so that `refusal` returns the reason of a refusal; the
    owner must call it every few seconds.
    """

    def __init__(
        self,
        context: Context,
        endpoint: str,
        message_bytes: int,
        keys: ActorKeys | None = None,
        watched: bool = False,
    ) -> None:
        self.raw = context.raw.socket(zmq.DEALER)
        _set_options(self.raw, message_bytes)
        self.raw.setsockopt(zmq.IMMEDIATE, 1)
        self.raw.setsockopt(zmq.SNDHWM, 16)
        self.raw.setsockopt(zmq.RCVHWM, 64)
        self.raw.setsockopt(zmq.RECONNECT_IVL, 250)
        self.raw.setsockopt(zmq.RECONNECT_IVL_MAX, 4_000)
        if endpoint.startswith("tcp://"):
            with contextlib.suppress(OSError):  # no address yet; the caller retries with a new socket
                family = addresses.family(addresses.host_and_port(endpoint)[0])
                self.raw.setsockopt(zmq.IPV6, int(family == sockets.AF_INET6))
        if keys is not None:
            keys.apply(self.raw)
        self._handshake = ClientHandshake(self.raw, endpoint, keys is not None) if watched else None
        self.raw.connect(endpoint)

    @property
    def handshake_done(self) -> bool:
        """Whether a handshake had succeeded at the last call of `refusal`; False if not `watched`."""
        return self._handshake is not None and self._handshake.done

    def refusal(self, known: bool = False) -> str | None:
        """Why the learner will never accept this client; see `ClientHandshake.refusal`."""
        return self._handshake.refusal(known) if self._handshake is not None else None

    def receive(self, timeout_seconds: float = 0.0, wake_descriptor: int | None = None) -> list[bytes] | None:
        """The next message; None after the timeout, or when `wake_descriptor` is readable."""
        if timeout_seconds > 0 and wake_descriptor is not None:
            poller = zmq.Poller()
            poller.register(self.raw, zmq.POLLIN)
            poller.register(wake_descriptor, zmq.POLLIN)
            poller.poll(int(timeout_seconds * 1000))
        elif timeout_seconds > 0:
            self.raw.poll(int(timeout_seconds * 1000))
        try:
            return self.raw.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return None

    def send(self, parts: Sequence[bytes]) -> bool:
        """Queue a message; False without a connection or with a full queue."""
        try:
            self.raw.send_multipart(list(parts), zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def close(self, linger_seconds: float = 0.0) -> None:
        """Close the connection; queued messages have `linger_seconds` to be sent."""
        if self._handshake is not None:
            self._handshake.close()
        self.raw.close(linger=int(linger_seconds * 1000))


class Waker:
    """Wakes a thread that waits in `wait`; any thread may call `wake`."""

    def __init__(self) -> None:
        self._reader, self._writer = sockets.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Make the descriptor readable."""
        with contextlib.suppress(BlockingIOError):  # the buffer is full, so a wake-up is pending already
            self._writer.send(b"!")

    def clear(self) -> None:
        """Discard the pending wake-ups."""
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass

    def close(self) -> None:
        """Close both ends."""
        self._reader.close()
        self._writer.close()


def wait(sources: Sequence[RouterSocket | ZapHandler], waker: Waker, timeout_seconds: float) -> None:
    """Wait until a message, a handshake or a wake-up arrives, or the timeout has passed."""
    poller = zmq.Poller()
    for source in sources:
        poller.register(source.raw, zmq.POLLIN)
    poller.register(waker.fileno(), zmq.POLLIN)
    poller.poll(int(timeout_seconds * 1000))


def parse_address(address: str) -> str:
    """The endpoint of a user's HOST:PORT; a complete endpoint is returned as it is.

    Raises:
        ValueError: the host is missing, or the port is not in 1 to 65534.
    """
    if address.startswith("ipc://"):
        return address
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_535:
        raise ValueError(
            f"expected HOST:PORT with a port in 1 to 65534, got {address!r}: give the learner's address"
        )
    return f"tcp://{host}:{port}"
