"""Who is let in: CURVE keys on sockets, the answer to libzmq's question at each handshake, and its proof.

libzmq asks a handler inside the process whether a key may enter (ZAP, RFC 27), only at the handshake,
and lets everybody in while no handler is there. So the handler lives in the thread of the sockets it
guards and is closed after them, strangers are tried before anybody is served, and the owner of a
connection is compared with the authorised keys again at each message.
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

from common.keys.handshake import HandshakeMonitor, Outcome

_KEYED, _LOCAL = b"keys", b"local"  # ZAP domains: of TCP, and of sockets in a private directory
_REQUESTS_A_TURN = 256
_PROOF_SECONDS = 5.0


class AccessControlError(Exception):
    """A guarded port that does not refuse strangers."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair, each half 40 characters of Z85."""

    public: str
    secret: str = field(repr=False)

    @staticmethod
    def new() -> KeyPair:
        """A fresh pair."""
        public, secret = zmq.curve_keypair()
        return KeyPair(public.decode(), secret.decode())

    def fits(self) -> bool:
        """Whether the halves belong together."""
        try:
            return zmq.curve_public(self.secret.encode()).decode() == self.public
        except (zmq.ZMQError, ValueError):
            return False


@dataclass(frozen=True, slots=True)
class ActorKeys:
    """What an actor needs to enter: its own pair, and the key by which it knows its learner."""

    name: str
    learner: str  # public
    pair: KeyPair

    def present(self, socket: zmq.Socket[bytes]) -> None:
        """Make the connections of a client socket use these keys."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.learner.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.pair.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.pair.secret.encode())


class ZapHandler:
    """The learner's side of CURVE. `admitted` maps the public keys that may enter to their names."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], pair: KeyPair) -> None:
        self._context, self._pair = context, pair
        self.admitted: dict[str, str] = {}
        self.raw = context.socket(zmq.REP)
        self.raw.bind("inproc://zeromq.zap.01")

    def guard(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        """Prepare the bind that follows: keys for TCP, none for a socket of this machine's file system."""
        local = endpoint.startswith("ipc://")
        socket.setsockopt(zmq.ZAP_DOMAIN, _LOCAL if local else _KEYED)
        socket.setsockopt(zmq.CURVE_SERVER, int(not local))
        if not local:
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._pair.secret.encode())

    def asked(self) -> bool:
        """Whether a handshake waits for its answer."""
        return bool(int(self.raw.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def answer(self) -> None:
        """Answer the handshakes that wait; never waits itself."""
        with contextlib.suppress(zmq.Again):
            for _ in range(_REQUESTS_A_TURN):
                version, number, domain, _, _, mechanism, *credentials = self.raw.recv_multipart(zmq.DONTWAIT)
                user = self._user(domain, mechanism, credentials)
                verdict = [b"400", b"not authorised", b""] if user is None else [b"200", b"", user]
                self.raw.send_multipart([version, number, *verdict, b""], zmq.DONTWAIT)

    def _user(self, domain: bytes, mechanism: bytes, credentials: Sequence[bytes]) -> bytes | None:
        """Who the connection will belong to: a public key, or this machine; None for strangers."""
        if domain == _LOCAL and mechanism == b"NULL":
            return _LOCAL
        if domain == _KEYED and mechanism == b"CURVE" and len(credentials) == 1:
            key: bytes = z85.encode(credentials[0])
            return key if key.decode() in self.admitted else None
        return None

    def owner(self, frame: zmq.Frame) -> str | None:
        """The key of the connection a message came on, "" for this machine; None if it may not speak."""
        try:
            user = str(frame.get("User-Id"))
        except zmq.ZMQError:  # nobody asked the handler: libzmq let it in by itself
            return None
        return "" if user == _LOCAL.decode() else user if user in self.admitted else None

    def verify_access_control(self, endpoints: Sequence[str]) -> None:
        """Try each TCP endpoint as a stranger: with an unknown key, and with none.

        Raises:
            AccessControlError: an endpoint let a stranger in, or did not answer.
        """
        for endpoint in endpoints:
            if endpoint.startswith("ipc://"):
                continue
            for stranger, expected in (("an unknown key", "unknown_key"), ("no key", "mechanism")):
                keys = ActorKeys("", self._pair.public, KeyPair.new()) if expected == "unknown_key" else None
                outcome = self._try(endpoint, keys)
                if outcome != expected:
                    came = {"done": "let in", None: "left without an answer"}.get(outcome, outcome)
                    raise AccessControlError(
                        f"expected {endpoint} to refuse a client with {stranger}, got it {came}: nobody is "
                        "served without working keys; use another libzmq or report it"
                    )

    def _try(self, endpoint: str, keys: ActorKeys | None) -> Outcome | None:
        host, _, port = endpoint.rpartition(":")
        here = {"tcp://0.0.0.0": "tcp://127.0.0.1", "tcp://[::]": "tcp://[::1]"}.get(host, host)
        with self._context.socket(zmq.DEALER) as client:
            client.setsockopt(zmq.LINGER, 0)
            client.setsockopt(zmq.IPV6, int("[" in here))
            if keys is not None:
                keys.present(client)
            with contextlib.closing(HandshakeMonitor(client)) as handshakes:
                client.connect(f"{here}:{port}")
                deadline = time.monotonic() + _PROOF_SECONDS
                while time.monotonic() < deadline:
                    self.raw.poll(10)
                    self.answer()
                    for outcome in handshakes.read():
                        return outcome
        return None

    def close(self) -> None:
        """Stop answering; close the guarded sockets first."""
        self.raw.close(linger=0)


def drop_connections(endpoints: Sequence[str]) -> int:
    """Shut down each TCP connection that this process accepted at `endpoints`; returns their number.

    libzmq has no call for it, and does not say which connection is whose before a message came on
    it. Honest peers connect anew by themselves, within a second.
    """
    ports = {int(endpoint.rpartition(":")[2]) for endpoint in endpoints if endpoint.startswith("tcp://")}
    count = 0
    for path in list(Path("/dev/fd").iterdir()):
        with contextlib.suppress(OSError):  # closed since, a listener, or no connection
            if not stat.S_ISSOCK(os.fstat(int(path.name)).st_mode):
                continue
            with sockets.socket(fileno=os.dup(int(path.name))) as connection:
                inet = connection.family in (sockets.AF_INET, sockets.AF_INET6)
                if inet and connection.getsockname()[1] in ports and connection.getpeername():
                    connection.shutdown(sockets.SHUT_RDWR)
                    count += 1
    return count
