"""The count of a connection's unread bytes, on real sockets, and the connections that are dropped."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from common import addresses
from common.keys.curve import ActorKeys, KeyPair, ZapHandler
from common.protocol.frames import Received
from common.protocol.sockets import Context, DealerSocket, RouterSocket
from common.protocol.unread import UnreadBytes
from tests.support.processes import wait_until

LIMIT_BYTES = 2**20  # the least
MESSAGE_BYTES = LIMIT_BYTES // 4
LEARNER, ALICE = KeyPair.new(), KeyPair.new()


class Accepted:
    """A connection and the end that a listening socket accepted."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            self.client = socket.create_connection(("127.0.0.1", self.port))
            self.server = listener.accept()[0]

    def send(self, size: int) -> None:
        """Send bytes that the other end receives and discards."""
        for _ in range(size // 2**14):
            self.client.sendall(bytes(2**14))
            self.server.recv(2**14, socket.MSG_WAITALL)

    def is_open(self) -> bool:
        """Whether the accepted end has not been shut down."""
        try:
            self.server.sendall(b"x")
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close both ends."""
        self.client.close()
        self.server.close()


@pytest.fixture
def accepted() -> Iterator[Accepted]:
    with contextlib.closing(Accepted()) as accepted:
        yield accepted


def test_a_connection_with_too_many_unread_bytes_is_dropped_once(accepted: Accepted) -> None:
    unread = UnreadBytes(MESSAGE_BYTES)
    unread.accept(accepted.server.fileno())
    accepted.send(LIMIT_BYTES)
    assert unread.drop({accepted.port}) == [] and accepted.is_open()
    unread.count(accepted.server.fileno(), Received(b"peer", "key", [bytes(2**13)], 1, 2**13 - 84))
    accepted.send(2**14)
    assert unread.drop({accepted.port}) == [] and accepted.is_open()
    accepted.send(2**14)
    (dropped,) = unread.drop({accepted.port})
    assert (dropped.address, dropped.key, dropped.unread_bytes) == ("127.0.0.1", "key", LIMIT_BYTES + 2**14)
    assert unread.dropped == {b"peer"} and not accepted.is_open()
    assert unread.drop({accepted.port}) == []


def test_bytes_that_were_read_do_not_count_for_later_ones(accepted: Accepted) -> None:
    """A count that is too high, as of messages of a former connection, is no credit."""
    unread = UnreadBytes(MESSAGE_BYTES)
    unread.accept(accepted.server.fileno())
    unread.count(accepted.server.fileno(), Received(b"peer", "", [], 1, 100 * LIMIT_BYTES))
    assert unread.drop({accepted.port}) == []
    accepted.send(LIMIT_BYTES + 2**14)
    assert len(unread.drop({accepted.port})) == 1


def test_a_descriptor_that_has_become_another_one_is_left_alone(accepted: Accepted) -> None:
    unread = UnreadBytes(MESSAGE_BYTES)
    reader, writer = os.pipe()
    for descriptor in (accepted.server.fileno(), reader, 1 << 20):
        unread.accept(descriptor)
    accepted.send(2 * LIMIT_BYTES)
    assert unread.drop({accepted.port + 1}) == [] and accepted.is_open()
    os.write(writer, b"x")
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "keyed"])
@pytest.mark.parametrize(("parts", "size"), [(1, 20), (2, 300), (1, MESSAGE_BYTES // 2)])
def test_a_connection_whose_messages_are_read_is_not_dropped(keyed: bool, parts: int, size: int) -> None:
    """It sends in all more than it may have unread."""
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(Context())
        handler = None
        if keyed:
            handler = stack.enter_context(contextlib.closing(ZapHandler(context.raw, LEARNER)))
            handler.authorised = {ALICE.public: "alice"}
        server = stack.enter_context(contextlib.closing(RouterSocket(context, MESSAGE_BYTES, handler)))
        endpoint = server.bind("tcp://127.0.0.1:*")
        keys = ActorKeys("alice", LEARNER.public, ALICE) if keyed else None
        client = stack.enter_context(contextlib.closing(DealerSocket(context, endpoint, MESSAGE_BYTES, keys)))
        sent = received = 0
        messages = 2 * LIMIT_BYTES // (parts * (size + 30))

        def all_received() -> bool:
            nonlocal sent, received
            if handler is not None:
                handler.answer()
            while sent < messages and sent - received < 16 and client.send([bytes(size)] * parts):
                sent += 1
            received += sum(1 for _ in server.receive())
            if received % 64 == 0:
                assert server.unread.drop(addresses.ports([endpoint])) == []
            return received == messages

        wait_until(all_received, f"{messages} messages", between=lambda: None)
        assert server.unread.drop(addresses.ports([endpoint])) == []
