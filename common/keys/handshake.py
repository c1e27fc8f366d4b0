"""Reads the outcome of handshakes, and finds the reason why a learner refuses a client.

libzmq raises no error in a refused client. It reports handshakes through a monitor socket. If that report
lacks the reason, the greeting of the port names the security mechanism that the port requires.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
from collections.abc import Callable, Iterator
from typing import Literal

import zmq
from zmq.utils.monitor import parse_monitor_message

from common import addresses

_GREETING_SECONDS = 2.0
RETRY_LATER = 300  # the status of a refusal that is temporary (ZAP, RFC 27)
_HANGUPS = 3  # closed connections in a row that count as a refusal; a single one may be a broken connection

Refusal = Literal["unknown_key", "flood", "mechanism", "garbled", "hangup", "silence"]
Outcome = Literal["done"] | Refusal


class HandshakeMonitor:
    """Monitors the handshakes of one socket; its queue has no bound, so the owner must read it often."""

    def __init__(
        self, socket: zmq.Socket[bytes], accept: Callable[[int], None] = lambda descriptor: None
    ) -> None:
        """Monitor the socket; `read` calls `accept` with the descriptor of each new connection."""
        self._socket, self._accept = socket, accept
        name = f"inproc://handshakes-{secrets.token_hex(8)}"
        events = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        events |= zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        events |= zmq.EVENT_ACCEPTED
        socket.monitor(name, events)
        self._events = socket.context.socket(zmq.PAIR)
        self._events.setsockopt(zmq.RCVHWM, 0)  # a full queue would block the I/O thread of libzmq
        self._events.connect(name)

    def read(self) -> Iterator[Outcome]:
        """The outcomes since the last call."""
        with contextlib.suppress(zmq.Again):
            while True:
                event = parse_monitor_message(self._events.recv_multipart(zmq.DONTWAIT))
                if event["event"] == zmq.EVENT_ACCEPTED:
                    self._accept(int(event["value"]))
                else:
                    yield _outcome(int(event["event"]), int(event["value"]))

    def close(self) -> None:
        """Stop monitoring."""
        self._socket.disable_monitor()
        self._events.close(linger=0)


def _outcome(event: int, value: int) -> Outcome:
    if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
        return "done"
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return "flood" if value == RETRY_LATER else "unknown_key"
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return "mechanism" if value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH else "garbled"
    return "hangup" if value in (errno.EPIPE, errno.ECONNRESET) else "silence"


class ClientHandshake:
    """Monitors the handshakes of a client: whether one succeeded, or why the learner refuses the client."""

    def __init__(self, socket: zmq.Socket[bytes], endpoint: str, keyed: bool) -> None:
        self._monitor = HandshakeMonitor(socket)
        self._endpoint, self._keyed = endpoint, keyed
        self._hangups = 0
        self._mechanism: str | None = None  # of the port, before the hang-ups that are counted
        self.done = False

    def refusal(self, known: bool = False) -> str | None:
        """Why the learner will never accept this client, in one sentence; None if that is not certain.

        A learner with another key than the client expects cannot decrypt its message, and closes the
        connection. So does a learner that exits, or a proxy without a learner. The greeting of the port
        distinguishes them, if the port sent it before the hang-ups as well as after them. A learner that
        accepted these keys before is `known` to have the right one: its hang-ups are never a refusal.
        """
        for outcome in self._monitor.read():
            self.done = self.done or outcome == "done"
            self._hangups = self._hangups + 1 if outcome == "hangup" else 0
            if outcome == "unknown_key":
                return (
                    f"expected the learner at {self._endpoint} to authorise the key of --keys, got a "
                    "refusal: the key was revoked or never added; ask for the key file of an authorised actor"
                )
            if outcome == "mechanism" or self._hangups == _HANGUPS:
                before, self._mechanism = self._mechanism, read_zmtp_greeting(self._endpoint)
                sentence = self._mismatch(self._mechanism)
                if sentence is not None and (
                    outcome == "mechanism" or (self._mechanism == before and not known)
                ):
                    return sentence
                self._hangups = 0
        return None

    def _mismatch(self, mechanism: str | None) -> str | None:
        """How the mechanism of the port differs from that of the client, in one sentence."""
        if mechanism == "CURVE" and not self._keyed:
            return (
                f"expected --keys FILE, got none, and the learner at {self._endpoint} requires keys: ask for "
                "a key file (python -m common.keys export NAME -o FILE)"
            )
        if mechanism == "NULL" and self._keyed:
            return (
                f"expected a learner with keys at {self._endpoint}, got one without keys: "
                "start it with --keys DIR, or omit --keys here"
            )
        if mechanism == "CURVE" and self._keyed:
            return (
                f"expected the learner at {self._endpoint} to have the learner's key of --keys, got a closed "
                "connection in the handshake: the key file is of another learner; ask for a new one"
            )
        return None

    def close(self) -> None:
        """Stop monitoring."""
        self._monitor.close()


def read_zmtp_greeting(endpoint: str) -> str | None:
    """The security mechanism that a ZeroMQ port announces (CURVE, NULL); None if it does not speak ZMTP.

    Each end first sends 64 bytes: a signature, a version, the name of the mechanism, zeros (RFC 23).
    """
    if not endpoint.startswith("tcp://"):
        return None
    host, port = addresses.host_and_port(endpoint)
    ours = b"\xff" + bytes(8) + b"\x7f\x03"  # no mechanism: an unsupported one would shorten the answer
    theirs = b""
    with (
        contextlib.suppress(OSError),
        addresses.connect(host, port, _GREETING_SECONDS) as connection,
    ):
        connection.sendall(ours)
        while len(theirs) < 32 and (data := connection.recv(64)):
            theirs += data
    if len(theirs) < 32 or theirs[0] != 0xFF or theirs[9] != 0x7F:
        return None
    return theirs[12:32].rstrip(b"\0").decode("ascii", "replace")
