"""The address family that a connection uses, and connections in both families."""

from __future__ import annotations

import contextlib
import re
import socket
from typing import Any

import pytest
import zmq

from common import addresses
from common.keys.handshake import read_zmtp_greeting
from common.protocol.sockets import (
    BindError,
    Context,
    DealerSocket,
    RouterSocket,
    is_loopback,
    parse_address,
    weights_endpoint,
)
from tests.support.processes import PATIENCE_SECONDS

RECORDS = {
    "a.invalid": ["192.0.2.1"],
    "aaaa.invalid": ["2001:db8::1", "2001:db8::2"],
    "both.invalid": ["::1", "127.0.0.1"],  # like localhost where /etc/hosts lists IPv6 first
}


def has_ipv6_loopback() -> bool:
    """Whether a plain socket can be bound to ::1 on this machine."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as plain:
        plain.bind(("::1", 0))
        return True
    return False


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the name service with the records above."""

    def resolve(host: str, port: Any, family: int = 0, type: int = 0) -> list[Any]:  # noqa: A002
        found = [
            (kind, socket.SOCK_STREAM, 6, "", (address, port))
            for address in RECORDS.get(host, [])
            for kind in [socket.AF_INET6 if ":" in address else socket.AF_INET]
            if family in (0, kind)
        ]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize(
    ("host", "ipv6"), [("a.invalid", 0), ("aaaa.invalid", 1), ("both.invalid", 0), ("unknown.invalid", 0)]
)
def test_a_connection_uses_ipv6_for_a_name_that_has_no_other_address(
    host: str, ipv6: int, resolver: None
) -> None:
    with Context() as context:
        client = DealerSocket(context, f"tcp://{host}:5555", 1 << 16)
        assert client.raw.getsockopt(zmq.IPV6) == ipv6
        client.close()


@pytest.mark.usefixtures("resolver")
def test_a_name_without_an_address_has_no_family() -> None:
    with pytest.raises(OSError, match="not known"):
        addresses.family("unknown.invalid")


def test_a_process_resolves_each_host_once_and_a_literal_address_never(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lookup blocks the actor while its lease runs."""
    lookups: list[str] = []

    def resolve(host: str, *_: Any, **__: Any) -> list[Any]:
        lookups.append(host)
        if len(lookups) == 1:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with Context() as context:
        for port in range(5555, 5559):
            DealerSocket(context, f"tcp://later.invalid:{port}", 1 << 16).close()
        for literal in ("127.0.0.1", "[::1]", "[fe80::1%lo]"):
            DealerSocket(context, f"tcp://{literal}:5555", 1 << 16).close()
    assert lookups == ["later.invalid"] * 2  # a failure is not cached
    assert addresses.family("127.0.0.1") == socket.AF_INET
    assert addresses.family("::1") == addresses.family("fe80::1%lo") == socket.AF_INET6


def test_an_ipv6_endpoint_has_a_host_a_weights_port_and_a_scope() -> None:
    assert parse_address("[::1]:5555") == parse_address("tcp://[::1]:5555") == "tcp://[::1]:5555"
    assert addresses.host_and_port("tcp://[2001:db8::1]:5555") == ("2001:db8::1", 5555)
    assert weights_endpoint("tcp://[::]:5555") == "tcp://[::]:5556"
    assert is_loopback("tcp://[::1]:5555") and not is_loopback("tcp://[::]:5555")


@pytest.mark.parametrize(
    ("bound", "connected"),
    [
        ("tcp://127.0.0.1:*", "127.0.0.1"),
        ("tcp://127.0.0.1:*", "localhost"),
        ("tcp://0.0.0.0:*", "localhost"),
        ("tcp://[::1]:*", "[::1]"),
        ("tcp://[::]:*", "[::1]"),
        ("tcp://[::]:*", "127.0.0.1"),
    ],
)
def test_a_bound_address_is_reachable_if_the_machine_has_it(bound: str, connected: str) -> None:
    if "[" in bound and not has_ipv6_loopback():
        pytest.skip("this machine has no IPv6 loopback address")
    with Context() as context:
        server = RouterSocket(context, 1 << 16)
        port = addresses.host_and_port(server.bind(bound))[1]
        client = DealerSocket(context, f"tcp://{connected}:{port}", 1 << 16)
        assert client.raw.poll(int(1000 * PATIENCE_SECONDS), zmq.POLLOUT) and client.send([b"over"])
        assert server.raw.poll(int(1000 * PATIENCE_SECONDS))
        assert [message.parts for message in server.receive()] == [[b"over"]]
        assert read_zmtp_greeting(f"tcp://{connected}:{port}") == "NULL"
        client.close()
        server.close()


@pytest.mark.parametrize("bound", ["tcp://192.0.2.1:*", "tcp://[2001:db8::1]:*"])
def test_an_address_that_no_machine_has_cannot_be_bound(bound: str) -> None:
    """These addresses are reserved for documentation."""
    with Context() as context:
        server = RouterSocket(context, 1 << 16)
        with pytest.raises(BindError, match=re.escape(f"expected to bind {bound}, got")):
            server.bind(bound)
        server.close()
