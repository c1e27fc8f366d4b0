"""Access control of the learner's sockets: CURVE keys, the ZAP handler, and a test of its refusals.

At each handshake libzmq asks a handler inside the process whether the client's key is authorised (ZAP,
RFC 27). Without a handler libzmq accepts every client. Therefore the handler runs in the thread of its
sockets and closes after them. Before the learner serves, it tests that unauthorised clients are refused. Each
message is checked against the keys that are authorised at that time.
"""

from __future__ import annotations

import contextlib
import os
import socket as sockets
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from common import addresses
from common.keys.handshake import RETRY_LATER, HandshakeMonitor, Outcome

_KEYED, _LOCAL = b"keys", b"local"  # the ZAP domains of TCP sockets and of ipc sockets
_REQUESTS_PER_POLL = 256
_REFUSAL_SECONDS = 5.0


class AccessControlError(Exception):
    """A port does not refuse clients without an authorised key."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair; each half is 40 characters of Z85."""

    public: str
    secret: str = field(repr=False)

    @staticmethod
    def new() -> KeyPair:
        """Generate a key pair."""
        public, secret = zmq.curve_keypair()
        return KeyPair(public.decode(), secret.decode())

    def matches(self) -> bool:
        """Whether both halves belong to one key pair."""
        try:
            return zmq.curve_public(self.secret.encode()).decode() == self.public
        except (zmq.ZMQError, ValueError):
            return False


@dataclass(frozen=True, slots=True)
class ActorKeys:
    """The keys of an actor: its own key pair, and the public key of its learner."""

    name: str
    learner: str  # the public key
    pair: KeyPair

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        """Set the keys on a client socket, before it connects."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.learner.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.pair.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.pair.secret.encode())


class ZapHandler:
    """Answers the access requests of libzmq. `authorised` maps public keys to names."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], pair: KeyPair) -> None:
        self._context, self._pair = context, pair
        self.authorised: dict[str, str] = {}
        self.refused_until: dict[str, float] = {}  # by address; its open connections stay
        self.raw = context.socket(zmq.REP)
        self.raw.bind("inproc://zeromq.zap.01")

    def configure(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        """Set the options of a socket before it binds to `endpoint`: CURVE for TCP, no keys for ipc."""
        local = endpoint.startswith("ipc://")
        socket.setsockopt(zmq.ZAP_DOMAIN, _LOCAL if local else _KEYED)
        socket.setsockopt(zmq.CURVE_SERVER, int(not local))
        if not local:
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._pair.secret.encode())

    def request_pending(self) -> bool:
        """Whether a handshake waits for an answer."""
        return bool(int(self.raw.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def answer(self) -> None:
        """Answer the pending handshakes; does not block."""
        with contextlib.suppress(zmq.Again):
            for _ in range(_REQUESTS_PER_POLL):
                request = self.raw.recv_multipart(zmq.DONTWAIT)
                version, request_id, domain, address, _, mechanism, *credentials = request
                user = self._user_id(domain, mechanism, credentials)
                status = [b"400", b"not authorised", b""] if user is None else [b"200", b"", user]
                if user is not None and self._is_refused(address.decode()):
                    status = [str(RETRY_LATER).encode(), b"try again later", b""]
                self.raw.send_multipart([version, request_id, *status, b""], zmq.DONTWAIT)

    def _is_refused(self, address: str) -> bool:
        if self.refused_until.get(address, 0.0) > time.monotonic():
            return True
        self.refused_until.pop(address, None)
        return False

    def _user_id(self, domain: bytes, mechanism: bytes, credentials: Sequence[bytes]) -> bytes | None:
        """The user id of the connection: its public key, or the local domain; None to refuse it."""
        if domain == _LOCAL and mechanism == b"NULL":
            return _LOCAL
        if domain == _KEYED and mechanism == b"CURVE" and len(credentials) == 1:
            key: bytes = z85.encode(credentials[0])
            return key if key.decode() in self.authorised else None
        return None

    def owner(self, frame: zmq.Frame) -> str | None:
        """The public key of a message's connection, "" for an ipc one; None if it is not authorised now."""
        try:
            user = str(frame.get("User-Id"))
        except zmq.ZMQError:  # libzmq accepted the connection without a request to the handler
            return None
        return "" if user == _LOCAL.decode() else user if user in self.authorised else None

    def verify_access_control(self, endpoints: Sequence[str]) -> None:
        """Check that each TCP endpoint refuses a client with an unknown key and one without a key.

        Raises:
            AccessControlError: an endpoint accepted such a client, or did not answer.
        """
        for endpoint in endpoints:
            if endpoint.startswith("ipc://"):
                continue
            for client, expected in (("an unknown key", "unknown_key"), ("no key", "mechanism")):
                keys = ActorKeys("", self._pair.public, KeyPair.new()) if expected == "unknown_key" else None
                outcome = self._attempt(endpoint, keys)
                if outcome != expected:
                    got = {"done": "accepted", None: "no answer"}.get(outcome, outcome)
                    raise AccessControlError(
                        f"expected {endpoint} to refuse a client with {client} ({expected}), got {got}: the "
                        "learner does not serve without access control; use another libzmq, or report it"
                    )

    def _attempt(self, endpoint: str, keys: ActorKeys | None) -> Outcome | None:
        """The outcome of a client's handshake with `endpoint`; None if there is none in time."""
        host, _, port = endpoint.rpartition(":")
        target = {"tcp://0.0.0.0": "tcp://127.0.0.1", "tcp://[::]": "tcp://[::1]"}.get(host, host)
        with self._context.socket(zmq.DEALER) as client:
            client.setsockopt(zmq.LINGER, 0)
            client.setsockopt(zmq.IPV6, int("[" in target))
            if keys is not None:
                keys.apply(client)
            with contextlib.closing(HandshakeMonitor(client)) as monitor:
                client.connect(f"{target}:{port}")
                deadline = time.monotonic() + _REFUSAL_SECONDS
                while time.monotonic() < deadline:
                    self.raw.poll(10)
                    self.answer()
                    for outcome in monitor.read():
                        return outcome
        return None

    def close(self) -> None:
        """Close the handler; its sockets must be closed before it."""
        self.raw.close(linger=0)


def drop_connections(endpoints: Sequence[str]) -> int:
    """Shut down each TCP connection that this process accepted at `endpoints`; return their number.

    libzmq has no function for this, and does not tell which connection belongs to which key before a
    message arrives. Authorised peers reconnect within a second.
    """
    ports = addresses.ports(endpoints)
    count = 0
    for path in list(Path("/dev/fd").iterdir()):
        with contextlib.suppress(OSError):  # closed meanwhile, a listening socket, or not connected
            if not stat.S_ISSOCK(os.fstat(int(path.name)).st_mode):
                continue
            with sockets.socket(fileno=os.dup(int(path.name))) as connection:
                inet = connection.family in (sockets.AF_INET, sockets.AF_INET6)
                if inet and connection.getsockname()[1] in ports and connection.getpeername():
                    connection.shutdown(sockets.SHUT_RDWR)
                    count += 1
    return count
