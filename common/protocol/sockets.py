"""Every socket for data: ROUTER on the learner, DEALER on the actor, and a wake-up between threads.

Sending never blocks and success promises nothing; the protocol above acknowledges. A socket belongs
to the thread that made it. No routing ids are set: a reconnected peer is a new peer.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket as sockets
from collections import Counter
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self, get_args

import zmq

from common import addresses
from common.keys.curve import ActorKeys, ZapHandler
from common.keys.handshake import ClientHandshake, HandshakeMonitor, Refusal

_SMALL_BYTES = 65_536  # above it, sending without a copy is cheaper
_POLL_BATCH = 256  # messages read per socket before anything else gets a turn


class BindError(Exception):
    """An address that cannot be served."""


def is_loopback(endpoint: str) -> bool:
    """Whether only this machine can reach the endpoint."""
    if endpoint.startswith(("ipc://", "inproc://")):
        return True
    host, _ = addresses.host_and_port(endpoint)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False


def weights_endpoint(endpoint: str) -> str:
    """The weights port of a learner whose data port is `endpoint`: the next port, or path."""
    if endpoint.startswith("ipc://"):
        return endpoint + ".weights"
    head, _, port = endpoint.rpartition(":")
    return f"{head}:{int(port) + 1}"


def _tune(socket: zmq.Socket[bytes], message_bytes: int) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, message_bytes)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5_000)
    # No HEARTBEAT_IVL: libzmq 4.3.5 aborts the process when a peer resets its connection while 16 of its
    # messages wait to be read and a heartbeat falls due. Leases and TCP notice who is gone.
    socket.setsockopt(zmq.TCP_MAXRT, 30_000)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)


class Context:
    """Owns the I/O thread; closing it ends every socket made from it."""

    def __init__(self) -> None:
        self.raw: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.raw.destroy(linger=0)


class RouterSocket:
    """One ROUTER: many peers, each named by an opaque routing id of its present connection.

    With a gate, TCP peers need an authorised key; what comes without one is counted in `refused`.
    """

    def __init__(self, context: Context, message_bytes: int, gate: ZapHandler | None = None) -> None:
        self.raw = context.raw.socket(zmq.ROUTER)
        _tune(self.raw, message_bytes)
        self.raw.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.raw.setsockopt(zmq.SNDHWM, 64)
        self.raw.setsockopt(zmq.RCVHWM, 16)
        self.raw.setsockopt(zmq.BACKLOG, 1024)
        self._gate = gate
        self._handshakes = HandshakeMonitor(self.raw) if gate is not None else None
        self.refused: Counter[str] = Counter(dict.fromkeys((*get_args(Refusal), "revoked"), 0))
        self.would_block = 0

    def bind(self, endpoint: str) -> str:
        """Serve at `endpoint`; returns it with the real port.

        Raises:
            BindError: the address is taken, unknown or malformed.
        """
        if endpoint.startswith("tcp://"):
            self.raw.setsockopt(zmq.IPV6, int("*" in endpoint or "[" in endpoint))
        if self._gate is not None:
            self._gate.guard(self.raw, endpoint)
        try:
            self.raw.bind(endpoint)
        except zmq.ZMQError as error:
            why = error.strerror or str(error)
            raise BindError(
                f'expected to bind {endpoint}, got "{why}": choose another --bind address or port'
            ) from None
        return self.raw.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")  # type: ignore[union-attr]

    def receive(self) -> Iterator[tuple[bytes, str, list[bytes]]]:
        """Up to a few hundred waiting messages, one by one, as (peer, its key or "", parts); never waits."""
        if self._handshakes is not None:
            self.refused.update(outcome for outcome in self._handshakes.read() if outcome != "done")
        with contextlib.suppress(zmq.Again):
            for _ in range(_POLL_BATCH):
                frame = self.raw.recv(zmq.DONTWAIT, copy=False)
                parts = self.raw.recv_multipart(zmq.DONTWAIT)
                key = "" if self._gate is None else self._gate.owner(frame)
                if key is None:
                    self.refused["revoked"] += 1
                else:
                    yield frame.bytes, key, parts

    def send(self, peer: bytes, parts: Sequence[bytes]) -> bool:
        """Hand a message to the peer's pipe; False if the peer is gone or its pipe is full."""
        try:
            self.raw.send_multipart([peer, *parts], zmq.DONTWAIT, copy=sum(map(len, parts)) < _SMALL_BYTES)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self.would_block += error.errno == zmq.EAGAIN
            return False
        return True

    def close(self) -> None:
        """Stop serving; what is queued gets a second to leave."""
        if self._handshakes is not None:
            self._handshakes.close()
        self.raw.close(linger=1_000)


class DealerSocket:
    """One DEALER: a connection to one learner port, made again by itself when it breaks.

    A watched client can tell why it is not let in; `refusal` must then be called every few seconds.
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
        _tune(self.raw, message_bytes)
        self.raw.setsockopt(zmq.IMMEDIATE, 1)
        self.raw.setsockopt(zmq.SNDHWM, 16)
        self.raw.setsockopt(zmq.RCVHWM, 64)
        self.raw.setsockopt(zmq.RECONNECT_IVL, 250)
        self.raw.setsockopt(zmq.RECONNECT_IVL_MAX, 4_000)
        if endpoint.startswith("tcp://"):
            with contextlib.suppress(OSError):  # a name without an address yet; silence makes a new client
                family = addresses.family(addresses.host_and_port(endpoint)[0])
                self.raw.setsockopt(zmq.IPV6, int(family == sockets.AF_INET6))
        if keys is not None:
            keys.present(self.raw)
        self._entry = ClientHandshake(self.raw, endpoint, keys is not None) if watched else None
        self.raw.connect(endpoint)

    @property
    def entered(self) -> bool:
        """Whether a handshake succeeded, as far as the last `refusal` knew; only if watched."""
        return self._entry is not None and self._entry.done

    def refusal(self) -> str | None:
        """Why the learner will never let this client in, in one sentence; None while it may."""
        return self._entry.refusal() if self._entry is not None else None

    def receive(self, timeout_seconds: float = 0.0, also: int | None = None) -> list[bytes] | None:
        """The next message, or None after the timeout or once descriptor `also` is readable."""
        if timeout_seconds > 0 and also is not None:
            poller = zmq.Poller()
            poller.register(self.raw, zmq.POLLIN)
            poller.register(also, zmq.POLLIN)
            poller.poll(int(timeout_seconds * 1000))
        elif timeout_seconds > 0:
            self.raw.poll(int(timeout_seconds * 1000))
        try:
            return self.raw.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return None

    def send(self, parts: Sequence[bytes]) -> bool:
        """Hand a message over; False if there is no connection or its pipe is full."""
        try:
            self.raw.send_multipart(list(parts), zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def close(self, linger_seconds: float = 0.0) -> None:
        """End the connection; what is queued gets `linger_seconds` to leave."""
        if self._entry is not None:
            self._entry.close()
        self.raw.close(linger=int(linger_seconds * 1000))


class Waker:
    """Wakes a thread that waits on sockets; `wake` may be called from any thread."""

    def __init__(self) -> None:
        self._reader, self._writer = sockets.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """For a poller."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Make the descriptor readable."""
        with contextlib.suppress(BlockingIOError):  # full: it is awake already
            self._writer.send(b"!")

    def clear(self) -> None:
        """Forget the wake-ups so far."""
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass

    def close(self) -> None:
        """Free both ends."""
        self._reader.close()
        self._writer.close()


def wait(servers: Sequence[RouterSocket | ZapHandler], waker: Waker, timeout_seconds: float) -> None:
    """Wait until a server has a message, the gate a handshake, or the waker was used."""
    poller = zmq.Poller()
    for server in servers:
        poller.register(server.raw, zmq.POLLIN)
    poller.register(waker.fileno(), zmq.POLLIN)
    poller.poll(int(timeout_seconds * 1000))


def parse_address(address: str) -> str:
    """An endpoint from what a user types: HOST:PORT, or a full endpoint.

    Raises:
        ValueError: no host or no port in 1 to 65534.
    """
    if address.startswith("ipc://"):
        return address
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_535:
        raise ValueError(
            f"expected HOST:PORT with a port in 1 to 65534, got {address!r}: give the learner's address"
        )
    return f"tcp://{host}:{port}"
