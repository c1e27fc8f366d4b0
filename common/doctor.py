"""`python -m common.doctor --learner HOST:PORT [--keys FILE]`: finds the step at which a connection fails.

It prints one line for each of six steps, until one fails: name, TCP, key, protocol, round trip, throughput.
It does not join the run: the learner receives heartbeats of an unknown session and a request for weights.
"""

from __future__ import annotations

import secrets
import socket
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common import addresses, arguments
from common.keys.curve import ActorKeys
from common.keys.files import KeysError, read_key_file
from common.keys.handshake import read_zmtp_greeting
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_TEMPORARY, EXIT_USAGE, Fatal
from common.protocol import codec
from common.protocol.messages import (
    BlobName,
    Heartbeat,
    HelloRequired,
    Message,
    Reject,
    WeightsMeta,
    WeightsPiece,
    WeightsRequest,
)
from common.protocol.sockets import Context, DealerSocket, parse_address, weights_endpoint

_STEP_SECONDS = 10.0  # for TCP and for a handshake
_ANSWER_SECONDS = 10.0
_SILENCE_SECONDS = 2.0
_MESSAGE_BYTES = 1 << 20
_ROUND_TRIPS = 20
_PULL_SECONDS = 3.0
_WINDOW_PIECES = 8
_BLOBS: tuple[BlobName, ...] = ("target", "bundle")  # in the order of an actor's requests


class ConnectionCheck:
    """Checks a connection in steps. Each step returns its result, or raises `Fatal` with a remedy."""

    def __init__(self, endpoint: str, keys: ActorKeys | None, context: Context) -> None:
        self._endpoints = (endpoint, weights_endpoint(endpoint))
        self._keys, self._context = keys, context
        self._host, port = addresses.host_and_port(endpoint)
        self._ports = (port, port + 1)
        self._client: DealerSocket | None = None  # connected to the data port by the step `key`

    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        """The steps by name, in order."""
        return [
            ("name", self.name),
            ("tcp", self.tcp),
            ("key", self.key),
            ("protocol", self.protocol),
            ("round trip", self.round_trip),
            ("throughput", self.throughput),
        ]

    def name(self) -> str:
        """Check that the host's name has an address."""
        began = time.monotonic()
        try:
            found = socket.getaddrinfo(self._host, self._ports[0], type=socket.SOCK_STREAM)
        except OSError as error:
            raise Fatal(
                EXIT_CONFIGURATION,
                f"expected an address for {self._host}, got {error.strerror}: check the name, or give "
                "an address",
            ) from None
        texts = sorted({str(entry[4][0]) for entry in found})
        return f"{', '.join(texts)} ({_milliseconds(began)})"

    def tcp(self) -> str:
        """Check that both ports accept connections."""
        results = []
        for port in self._ports:
            began = time.monotonic()
            try:
                addresses.connect(self._host, port, _STEP_SECONDS).close()
            except OSError as error:
                raise Fatal(
                    EXIT_TEMPORARY,
                    f"expected port {port} of {self._host} to accept a connection, got "
                    f"{error.strerror or error}: check that the learner runs and binds to this address, and "
                    "that firewalls open both ports",
                ) from None
            results.append(f"port {port} in {_milliseconds(began)}")
        return ", ".join(results)

    def key(self) -> str:
        """Check that the handshakes with both ports succeed."""
        began = time.monotonic()
        for endpoint in self._endpoints:
            client = DealerSocket(self._context, endpoint, _MESSAGE_BYTES, self._keys, watched=True)
            try:
                self._complete_handshake(client, endpoint)
            finally:
                client.close()
        self._client = DealerSocket(self._context, self._endpoints[0], _MESSAGE_BYTES, self._keys)
        how = f"as {self._keys.name}, encrypted" if self._keys is not None else "in plain text"
        return f"accepted {how} ({_milliseconds(began)})"

    def _complete_handshake(self, client: DealerSocket, endpoint: str) -> None:
        deadline = time.monotonic() + _STEP_SECONDS
        while not client.handshake_done:
            refusal = client.refusal()
            if refusal is not None:
                raise Fatal(EXIT_CONFIGURATION, refusal)
            if time.monotonic() > deadline:
                zmtp = read_zmtp_greeting(endpoint) is not None
                raise Fatal(
                    EXIT_TEMPORARY if zmtp else EXIT_CONFIGURATION,
                    f"expected a learner at {endpoint}, got "
                    + (
                        f"no complete handshake within {_STEP_SECONDS:.0f} s: try again"
                        if zmtp
                        else "something that does not speak ZeroMQ: check the port"
                    ),
                )
            client.receive(0.05)

    def protocol(self) -> str:
        """Check that a learner with the same protocol version answers."""
        answer = self._heartbeat(_ANSWER_SECONDS)
        if isinstance(answer, HelloRequired):
            return f"version {codec.PROTOCOL_MAJOR}, learner generation {answer.generation}"
        if isinstance(answer, Reject):
            raise Fatal(EXIT_CONFIGURATION, answer.text)
        if answer is None:
            raise Fatal(
                EXIT_TEMPORARY,
                f"expected an answer from the learner, got none for {_ANSWER_SECONDS:.0f} s: it hangs, or is "
                "not a learner; check its log",
            )
        raise Fatal(EXIT_CONFIGURATION, f"expected a learner's answer, got {answer!r}: check the port")

    def _heartbeat(self, seconds: float) -> Message | None:
        """Send a heartbeat of an unknown session; return the answer, or None after `seconds`."""
        assert self._client is not None
        deadline = time.monotonic() + seconds
        beat = codec.encode(Heartbeat(sid=secrets.token_bytes(16), generation=0, produced=0, stats={}))
        while not self._client.send(beat) and time.monotonic() < deadline:
            self._client.receive(0.01)  # not connected yet
        return _receive(self._client, deadline - time.monotonic())

    def round_trip(self) -> str:
        """Measure the time from a heartbeat to its answer."""
        times: list[float] = []
        for _ in range(_ROUND_TRIPS):
            began = time.monotonic()
            if self._heartbeat(_ANSWER_SECONDS) is None:
                raise Fatal(
                    EXIT_TEMPORARY,
                    f"expected each of {_ROUND_TRIPS} answers, got none for {_ANSWER_SECONDS:.0f} s after "
                    f"{len(times)}: the connection breaks; check the network",
                )
            times.append((time.monotonic() - began) * 1000)
        return f"median {statistics.median(times):.1f} ms, worst {max(times):.1f} ms of {_ROUND_TRIPS}"

    def throughput(self) -> str:
        """Measure the throughput of the weights port."""
        client = DealerSocket(self._context, self._endpoints[1], _MESSAGE_BYTES, self._keys)
        try:
            for name in _BLOBS:
                request = WeightsRequest(name=name, generation=-1, version=-1, piece=0, count=_WINDOW_PIECES)
                result = _pull(client, request)
                if result is not None:
                    return result
        finally:
            client.close()
        return "the learner has no weights to send yet: not measured"


def _receive(client: DealerSocket, seconds: float) -> Message | None:
    """The next message; None after `seconds`. A message that cannot be decoded raises `Fatal`."""
    parts = client.receive(seconds)
    try:
        return None if parts is None else codec.decode(parts)
    except codec.WireError as error:
        raise Fatal(EXIT_CONFIGURATION, str(error)) from None


def _pull(client: DealerSocket, request: WeightsRequest) -> str | None:
    """Request the pieces of a blob for some seconds and return the throughput; None without a blob."""
    began = time.monotonic()
    while not client.send(codec.encode(request)):
        if time.monotonic() - began > _SILENCE_SECONDS:
            return None
        client.receive(0.01)
    began = time.monotonic()
    meta: WeightsMeta | None = None
    size = pieces = 0
    while time.monotonic() - began < _PULL_SECONDS and (meta is None or pieces < meta.pieces):
        message = _receive(client, _SILENCE_SECONDS)
        match message:
            case None:
                break
            case WeightsMeta():
                meta = message
            case WeightsPiece() if meta is not None:
                size, pieces = size + len(message.body), pieces + 1
                if pieces % _WINDOW_PIECES == 0:
                    more = WeightsRequest(
                        name=meta.name,
                        generation=meta.generation,
                        version=meta.version,
                        piece=pieces,
                        count=_WINDOW_PIECES,
                    )
                    client.send(codec.encode(more))
    seconds = time.monotonic() - began
    if meta is None:
        return None
    if size == 0:
        raise Fatal(
            EXIT_TEMPORARY,
            "expected the pieces of the weights, got none: messages of this size are lost; check the network "
            "(a smaller MTU may help)",
        )
    return f"{size / 1e6:.2f} MB of weights at {size / 1e6 / seconds:.1f} MB/s"


def _milliseconds(began: float) -> str:
    return f"{(time.monotonic() - began) * 1000:.0f} ms"


def _check(argv: list[str]) -> None:
    parser = arguments.Parser(
        prog="python -m common.doctor", description="Check the connection to a learner, step by step."
    )
    parser.add_argument(
        "--learner", required=True, metavar="HOST:PORT", help="the address of the learner's data port"
    )
    parser.add_argument("--keys", type=Path, metavar="FILE", help="the key file of an actor")
    options = parser.parse_args(argv)
    try:
        endpoint = parse_address(options.learner)
        keys = read_key_file(options.keys) if options.keys is not None else None
    except ValueError as error:
        raise Fatal(EXIT_USAGE, str(error)) from None
    except KeysError as error:
        raise Fatal(EXIT_CONFIGURATION, str(error)) from None
    if not endpoint.startswith("tcp://"):
        raise Fatal(
            EXIT_USAGE,
            f"expected --learner HOST:PORT, got {options.learner!r}: an ipc endpoint needs no check",
        )
    with Context() as context:
        for name, step in ConnectionCheck(endpoint, keys, context).steps():
            try:
                print(f"{name:12} {step()}")
            except Fatal:
                print(f"{name:12} failed")
                raise


def main() -> int:
    """Check a connection; returns 0, or the exit code of the step that failed."""
    return arguments.exit_code(lambda: _check(sys.argv[1:]), "doctor")


if __name__ == "__main__":
    sys.exit(main())
