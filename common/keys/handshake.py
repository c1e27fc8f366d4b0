"""What became of a handshake, and what a client that was refused can know about it.

A refused client sees no error. libzmq tells of handshakes through a monitor socket; what that leaves
open is asked of the port itself, by its greeting.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
from collections.abc import Iterator
from typing import Literal

import zmq
from zmq.utils.monitor import parse_monitor_message

from common import addresses

_GREETING_SECONDS = 2.0
_HANGUPS = 3  # in a row, before a learner's hanging up counts as its answer

Refusal = Literal["unknown_key", "mechanism", "garbled", "hangup", "silence"]
Outcome = Literal["done"] | Refusal


class HandshakeMonitor:
    """What became of the handshakes of one socket; read it often, for what waits is not bounded."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        name = f"inproc://handshakes-{secrets.token_hex(8)}"
        events = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        events |= zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        socket.monitor(name, events)
        self._events = socket.context.socket(zmq.PAIR)
        self._events.setsockopt(zmq.RCVHWM, 0)  # a full pipe would stop libzmq's own thread
        self._events.connect(name)

    def read(self) -> Iterator[Outcome]:
        """The outcomes since the last reading."""
        with contextlib.suppress(zmq.Again):
            while True:
                event = parse_monitor_message(self._events.recv_multipart(zmq.DONTWAIT))
                yield _outcome(int(event["event"]), int(event["value"]))

    def close(self) -> None:
        """Stop watching."""
        self._socket.disable_monitor()
        self._events.close(linger=0)


def _outcome(event: int, value: int) -> Outcome:
    if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
        return "done"
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return "unknown_key"
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return "mechanism" if value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH else "garbled"
    return "hangup" if value in (errno.EPIPE, errno.ECONNRESET) else "silence"


class ClientHandshake:
    """A client's handshakes with its learner: whether it is in, and why it never will be."""

    def __init__(self, socket: zmq.Socket[bytes], endpoint: str, keyed: bool) -> None:
        self._handshakes = HandshakeMonitor(socket)
        self._endpoint, self._keyed = endpoint, keyed
        self._hangups = 0
        self.done = False

    def refusal(self) -> str | None:
        """Why this client will not be let in, in one sentence; None if that is not certain.

        A learner that holds another key than the client expects cannot say so: it hangs up on a
        message it cannot read. So may a dying learner, or a proxy without one: a greeting tells.
        """
        for outcome in self._handshakes.read():
            self.done = self.done or outcome == "done"
            self._hangups = self._hangups + 1 if outcome == "hangup" else 0
            if outcome == "unknown_key":
                return (
                    f"expected a key that the learner at {self._endpoint} authorises, got a refusal: the key "
                    "of --keys was revoked or never added; ask for the key file of an authorised actor"
                )
            if outcome == "mechanism" or self._hangups == _HANGUPS:
                self._hangups = 0
                sentence = self._differs(read_zmtp_greeting(self._endpoint))
                if sentence is not None:
                    return sentence
        return None

    def _differs(self, mechanism: str | None) -> str | None:
        if mechanism == "CURVE" and not self._keyed:
            return (
                f"expected --keys FILE, got none, and the learner at {self._endpoint} lets in holders of "
                "keys alone: ask for a key file (python -m common.keys export NAME -o FILE)"
            )
        if mechanism == "NULL" and self._keyed:
            return (
                f"expected the learner at {self._endpoint} to prove itself by its key, got one without keys: "
                "start it with --keys DIR, or drop --keys here"
            )
        if mechanism == "CURVE" and self._keyed:
            return (
                f"expected the learner at {self._endpoint} to hold the key named in --keys, got a hang-up in "
                "the handshake: the key file is of another learner; ask for a new one"
            )
        return None

    def close(self) -> None:
        """Stop watching."""
        self._handshakes.close()


def read_zmtp_greeting(endpoint: str) -> str | None:
    """The security mechanism that a ZeroMQ port announces (CURVE, NULL); None if none speaks there.

    Both ends begin with 64 bytes: a signature, a version, the mechanism's name, zeros (RFC 23).
    """
    if not endpoint.startswith("tcp://"):
        return None
    host, port = addresses.host_and_port(endpoint)
    ours = b"\xff" + bytes(8) + b"\x7f\x03"  # no mechanism: a port that disliked it would say less
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
