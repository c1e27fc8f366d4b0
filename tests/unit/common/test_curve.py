"""The ZAP handler: its answers to libzmq, and guarded sockets on loopback and ipc endpoints."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

from common.keys import curve
from common.keys.curve import AccessControlError, ActorKeys, KeyPair, ZapHandler
from common.protocol.sockets import Context, DealerSocket, RouterSocket
from tests.support.processes import PATIENCE_SECONDS, wait_until

LEARNER, ALICE, EVE = KeyPair.new(), KeyPair.new(), KeyPair.new()
MESSAGE_BYTES = 1 << 16
POLL_MS = int(1000 * PATIENCE_SECONDS)
Connect = Callable[..., DealerSocket]


@pytest.fixture
def context() -> Iterator[Context]:
    with Context() as context:
        yield context


@pytest.fixture
def handler(context: Context) -> Iterator[ZapHandler]:
    with contextlib.closing(ZapHandler(context.raw, LEARNER)) as handler:
        handler.authorised = {ALICE.public: "alice"}
        yield handler


@pytest.fixture
def server(context: Context, handler: ZapHandler) -> Iterator[RouterSocket]:
    """A guarded socket; it closes before its handler."""
    with contextlib.closing(RouterSocket(context, MESSAGE_BYTES, handler)) as server:
        yield server


@pytest.fixture
def connect(context: Context) -> Iterator[Connect]:
    """A function that makes clients; they are closed with the test."""
    with contextlib.ExitStack() as stack:

        def make(endpoint: str, pair: KeyPair | None = None) -> DealerSocket:
            keys = ActorKeys("", LEARNER.public, pair) if pair is not None else None
            return stack.enter_context(
                contextlib.closing(DealerSocket(context, endpoint, MESSAGE_BYTES, keys))
            )

        yield make


def exchange(
    handler: ZapHandler, server: RouterSocket, client: DealerSocket, until: Callable[[list[str]], bool]
) -> list[str]:
    """Send, and answer handshakes, until a condition of the keys of the received messages holds."""
    keys: list[str] = []

    def done() -> bool:
        handler.answer()
        client.send([b"hello"])
        keys.extend(message.key for message in server.receive())
        return until(keys)

    wait_until(done, "the condition on the received messages")
    return keys


@contextlib.contextmanager
def request(
    context: Context, domain: bytes, mechanism: bytes, credentials: Sequence[bytes], number: bytes = b"7"
) -> Iterator[zmq.Socket[bytes]]:
    """A pending request to the handler, as libzmq sends it (RFC 27)."""
    with context.raw.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect("inproc://zeromq.zap.01")
        socket.send_multipart([b"1.0", number, domain, b"192.0.2.1", b"", mechanism, *credentials])
        yield socket


RAW = {name: z85.decode(pair.public) for name, pair in (("alice", ALICE), ("eve", EVE))}


@pytest.mark.parametrize(
    ("domain", "mechanism", "credentials", "user"),
    [
        (b"keys", b"CURVE", [RAW["alice"]], ALICE.public.encode()),
        (b"keys", b"CURVE", [RAW["eve"]], None),
        (b"keys", b"CURVE", [], None),
        (b"keys", b"CURVE", [RAW["alice"], RAW["alice"]], None),
        (b"keys", b"NULL", [], None),
        (b"keys", b"PLAIN", [b"alice", b"secret"], None),
        (b"local", b"NULL", [], b"local"),
        (b"local", b"CURVE", [RAW["alice"]], None),
        (b"", b"NULL", [], None),
        (b"other", b"CURVE", [RAW["alice"]], None),
    ],
    ids=[
        "an authorised key",
        "an unknown key",
        "no credentials",
        "two credentials",
        "no keys on a TCP socket",
        "a password",
        "an ipc socket",
        "a key on an ipc socket",
        "no domain",
        "another domain",
    ],
)
def test_a_request_is_granted_to_authorised_keys_and_to_ipc_sockets_alone(
    context: Context,
    handler: ZapHandler,
    domain: bytes,
    mechanism: bytes,
    credentials: list[bytes],
    user: bytes | None,
) -> None:
    with request(context, domain, mechanism, credentials) as socket:
        handler.answer()
        assert socket.poll(POLL_MS)
        version, number, status, _, granted, metadata = socket.recv_multipart()
    assert (version, number, metadata) == (b"1.0", b"7", b"")
    assert (status, granted) == ((b"400", b"") if user is None else (b"200", user))


@pytest.mark.parametrize(("until", "status"), [(math.inf, b"300"), (0.0, b"200")], ids=["now", "earlier"])
def test_an_address_is_refused_for_a_time(
    context: Context, handler: ZapHandler, until: float, status: bytes
) -> None:
    """The status 300 means a temporary refusal (RFC 27)."""
    handler.refused_until = {"192.0.2.1": until, "192.0.2.2": math.inf}
    with request(context, b"keys", b"CURVE", [RAW["alice"]]) as socket:
        handler.answer()
        assert socket.poll(POLL_MS)
        assert socket.recv_multipart()[2] == status
    assert ("192.0.2.1" in handler.refused_until) == (status == b"300")


def test_one_call_answers_every_pending_request(context: Context, handler: ZapHandler) -> None:
    assert not handler.request_pending()
    handler.answer()  # nothing to answer, and it does not block
    with (
        request(context, b"keys", b"CURVE", [RAW["alice"]], b"1") as first,
        request(context, b"keys", b"CURVE", [RAW["eve"]], b"2") as second,
    ):
        assert handler.request_pending()
        handler.answer()
        assert not handler.request_pending()
        answers = [socket.recv_multipart()[1:3] for socket in (first, second) if socket.poll(POLL_MS)]
    assert answers == [[b"1", b"200"], [b"2", b"400"]]


def test_messages_of_an_authorised_key_carry_it(
    handler: ZapHandler, server: RouterSocket, connect: Connect
) -> None:
    client = connect(server.bind("tcp://127.0.0.1:*"), ALICE)
    assert set(exchange(handler, server, client, lambda keys: len(keys) >= 3)) == {ALICE.public}


def test_messages_of_an_ipc_socket_need_no_key(
    handler: ZapHandler, server: RouterSocket, connect: Connect, tmp_path: Path
) -> None:
    client = connect(server.bind(f"ipc://{tmp_path}/data"))
    assert set(exchange(handler, server, client, lambda keys: len(keys) >= 3)) == {""}


@pytest.mark.parametrize(("pair", "reason"), [(EVE, "unknown_key"), (None, "mechanism")])
def test_a_client_without_an_authorised_key_is_refused_and_counted(
    handler: ZapHandler, server: RouterSocket, connect: Connect, pair: KeyPair | None, reason: str
) -> None:
    """A client without a key may detect the difference first, and hang up."""
    client = connect(server.bind("tcp://127.0.0.1:*"), pair)
    reasons = {reason} if pair is not None else {reason, "hangup"}
    keys = exchange(handler, server, client, lambda _: any(server.refused[name] for name in reasons))
    assert keys == []


def test_messages_of_a_key_that_was_revoked_after_the_handshake_are_refused_and_counted(
    handler: ZapHandler, server: RouterSocket, connect: Connect
) -> None:
    client = connect(server.bind("tcp://127.0.0.1:*"), ALICE)
    exchange(handler, server, client, lambda keys: len(keys) >= 1)
    handler.authorised = {EVE.public: "eve"}
    assert exchange(handler, server, client, lambda _: server.refused["revoked"] >= 3) == []


def test_the_test_of_access_control_accepts_guarded_and_ipc_endpoints(
    handler: ZapHandler, server: RouterSocket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve, "_REFUSAL_SECONDS", PATIENCE_SECONDS)
    handler.verify_access_control([server.bind("tcp://127.0.0.1:*"), server.bind(f"ipc://{tmp_path}/data")])


def test_the_test_of_access_control_finds_an_endpoint_without_keys(
    context: Context, handler: ZapHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve, "_REFUSAL_SECONDS", PATIENCE_SECONDS)
    with contextlib.closing(RouterSocket(context, MESSAGE_BYTES)) as plain:
        endpoint = plain.bind("tcp://127.0.0.1:*")
        with pytest.raises(AccessControlError, match=f"expected {endpoint} to refuse a client"):
            handler.verify_access_control([endpoint])


def test_dropped_connections_are_those_of_the_endpoint_and_their_clients_reconnect(
    handler: ZapHandler, server: RouterSocket, connect: Connect
) -> None:
    endpoint = server.bind("tcp://127.0.0.1:*")
    client = connect(endpoint, ALICE)
    peers: list[bytes] = []

    def reached() -> bool:
        handler.answer()
        client.send([b"hello"])
        peers.extend(message.peer for message in server.receive())
        return len(set(peers)) > dropped

    dropped = 0
    wait_until(reached, "a message")
    port = int(endpoint.rpartition(":")[2])
    assert curve.drop_connections([f"tcp://127.0.0.1:{port - 1}", f"ipc:///run/{port}"]) == 0
    dropped = curve.drop_connections([endpoint])
    assert dropped == 1
    wait_until(reached, "a message on a new connection")
