"""The data sockets on ipc and loopback endpoints: delivery, limits, queues and wake-ups."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from common.protocol.frames import Received
from common.protocol.sockets import (
    BindError,
    Context,
    DealerSocket,
    RouterSocket,
    Waker,
    is_loopback,
    parse_address,
    wait,
    weights_endpoint,
)
from tests.support.processes import PATIENCE_SECONDS, wait_until

LIMIT_BYTES = 1 << 17
Connect = Callable[[], DealerSocket]


@pytest.fixture
def context() -> Iterator[Context]:
    with Context() as context:
        yield context


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/data"


@pytest.fixture
def server(context: Context, endpoint: str) -> Iterator[RouterSocket]:
    with contextlib.closing(RouterSocket(context, LIMIT_BYTES)) as server:
        server.bind(endpoint)
        yield server


@pytest.fixture
def connect(context: Context, endpoint: str) -> Iterator[Connect]:
    """A function that makes connected clients of the server; they are closed with the test."""
    with contextlib.ExitStack() as stack:

        def make() -> DealerSocket:
            client = stack.enter_context(contextlib.closing(DealerSocket(context, endpoint, LIMIT_BYTES)))
            assert client.raw.poll(int(1000 * PATIENCE_SECONDS), zmq.POLLOUT)
            return client

        yield make


@pytest.fixture
def waker() -> Iterator[Waker]:
    with contextlib.closing(Waker()) as waker:
        yield waker


def receive(server: RouterSocket, count: int) -> list[Received]:
    """The next `count` messages."""
    received: list[Received] = []

    def complete() -> bool:
        received.extend(server.receive())
        return len(received) >= count

    wait_until(complete, f"{count} messages")
    return received


def test_messages_arrive_in_order_and_whole(server: RouterSocket, connect: Connect) -> None:
    client = connect()
    for number in range(10):
        assert client.send([b"head", bytes([number])])
    received = receive(server, 10)
    assert [message.parts for message in received] == [[b"head", bytes([number])] for number in range(10)]
    assert {message.key for message in received} == {""}


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, LIMIT_BYTES])
def test_an_answer_reaches_the_client_that_sent_the_request(
    server: RouterSocket, connect: Connect, size: int
) -> None:
    """Messages of 64 KiB and more are sent without a copy."""
    clients = connect(), connect()
    for number, client in enumerate(clients):
        assert client.send([bytes([number])])
    peers = {message.parts[0]: message.peer for message in receive(server, 2)}
    assert len(set(peers.values())) == 2
    for number in (1, 0):
        assert server.send(peers[bytes([number])], [b"to", bytes([number]) * size])
    for number, client in enumerate(clients):
        assert client.receive(PATIENCE_SECONDS) == [b"to", bytes([number]) * size]


def test_without_a_connection_a_client_does_not_queue_a_message(context: Context, tmp_path: Path) -> None:
    with contextlib.closing(DealerSocket(context, f"ipc://{tmp_path}/absent", LIMIT_BYTES)) as client:
        assert not client.send([b"lost"])
        assert client.receive() is None


def test_a_message_to_an_unknown_peer_is_not_sent(server: RouterSocket) -> None:
    assert not server.send(b"nobody", [b"lost"])
    assert server.send_queue_full == 0


def test_a_full_queue_refuses_a_message_and_counts_it(server: RouterSocket, connect: Connect) -> None:
    client = connect()
    assert client.send([b"hello"])
    ((peer, *_),) = receive(server, 1)
    assert server.send_queue_full == 0
    while server.send(peer, [bytes(LIMIT_BYTES)]):  # the client reads nothing
        pass
    assert server.send_queue_full == 1


def test_a_message_over_the_limit_is_not_received_and_the_client_reconnects(
    server: RouterSocket, connect: Connect
) -> None:
    client = connect()
    assert client.send([b"before"])
    ((peer, *_),) = receive(server, 1)
    assert client.send([bytes(LIMIT_BYTES + 1)])
    received: list[Received] = []

    def reconnected() -> bool:
        client.send([b"after"])
        received.extend(server.receive())
        return any(message.peer != peer for message in received)

    wait_until(reconnected, "a message on a new connection")
    assert all(message.parts == [b"after"] for message in received)


def test_a_message_of_many_parts_is_discarded_over_several_calls(
    server: RouterSocket, connect: Connect
) -> None:
    """The parts of one message follow each other, so the state of the socket knows whose they are."""
    hostile, honest = connect(), connect()
    for client, parts in ((hostile, [b"1", b"2", *[b"xy"] * 10_000]), (honest, [b"head", b"body"])):
        client.raw.send_multipart(parts)
    received: list[Received] = []
    calls = 0

    def complete() -> bool:
        nonlocal calls
        received.extend(server.receive())
        calls += server.discarding
        return len(received) >= 2

    wait_until(complete, "both messages")
    assert sorted(message[2:] for message in received) == [
        ([b"1", b"2"], 10_000, 20_000),
        ([b"head", b"body"], 0, 0),
    ]
    assert calls >= 10_000 // 256
    assert len({message.peer for message in received}) == 2


def test_a_bound_endpoint_cannot_be_bound_again(context: Context) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.closing(RouterSocket(context, LIMIT_BYTES)))
        endpoint = first.bind("tcp://127.0.0.1:*")
        assert endpoint.startswith("tcp://127.0.0.1:") and not endpoint.endswith("*")
        second = stack.enter_context(contextlib.closing(RouterSocket(context, LIMIT_BYTES)))
        with pytest.raises(BindError, match=f"expected to bind {endpoint}, got .*: choose another"):
            second.bind(endpoint)


def test_a_readable_descriptor_ends_the_wait_for_a_message(
    server: RouterSocket, connect: Connect, waker: Waker
) -> None:
    client = connect()
    waker.wake()
    began = time.monotonic()
    assert client.receive(PATIENCE_SECONDS, waker.fileno()) is None
    assert time.monotonic() - began < PATIENCE_SECONDS


def test_a_message_ends_the_wait_for_a_descriptor(
    server: RouterSocket, connect: Connect, waker: Waker
) -> None:
    client = connect()
    assert client.send([b"hello"])
    ((peer, *_),) = receive(server, 1)
    assert server.send(peer, [b"answer"])
    assert client.receive(PATIENCE_SECONDS, waker.fileno()) == [b"answer"]


def test_a_wake_up_of_another_thread_ends_a_wait(server: RouterSocket, waker: Waker) -> None:
    thread = threading.Thread(target=waker.wake)
    began = time.monotonic()
    thread.start()
    wait((server,), waker, PATIENCE_SECONDS)
    assert time.monotonic() - began < PATIENCE_SECONDS
    thread.join()


def test_any_number_of_wake_ups_is_cleared_at_once(waker: Waker) -> None:
    """`wake` does not block when the socket pair is full."""
    for _ in range(10_000):
        waker.wake()
    assert select.select([waker], [], [], 0)[0] == [waker]
    waker.clear()
    assert select.select([waker], [], [], 0)[0] == []


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":5555", "host:0", "host:65535", "host:x", "host:-1"]
)
def test_an_address_without_a_host_or_a_legal_port_is_refused(address: str) -> None:
    """The weights port is the next one, so 65535 is no data port."""
    with pytest.raises(ValueError, match="expected HOST:PORT with a port in 1 to 65534, got "):
        parse_address(address)


@pytest.mark.parametrize(
    ("address", "endpoint", "weights"),
    [
        ("host:5555", "tcp://host:5555", "tcp://host:5556"),
        ("tcp://10.0.0.1:65534", "tcp://10.0.0.1:65534", "tcp://10.0.0.1:65535"),
        ("ipc:///run/data", "ipc:///run/data", "ipc:///run/data.weights"),
    ],
)
def test_the_weights_endpoint_follows_the_data_endpoint(address: str, endpoint: str, weights: str) -> None:
    assert parse_address(address) == endpoint
    assert weights_endpoint(endpoint) == weights


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("ipc:///run/data", True),
        ("tcp://127.0.0.1:5555", True),
        ("tcp://127.8.9.10:5555", True),
        ("tcp://localhost:5555", True),
        ("tcp://[::ffff:127.0.0.1]:5555", True),
        ("tcp://0.0.0.0:5555", False),
        ("tcp://*:5555", False),
        ("tcp://10.0.0.1:5555", False),
        ("tcp://localhost.example:5555", False),
    ],
)
def test_only_loopback_and_ipc_endpoints_stay_on_the_machine(endpoint: str, expected: bool) -> None:
    assert is_loopback(endpoint) is expected
