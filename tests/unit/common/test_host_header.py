"""Which Host headers the HTTP server accepts, over real sockets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from common.http_server import Response, WebServer
from tests.support.processes import PATIENCE_SECONDS
from tests.unit.common.test_addresses import has_ipv6_loopback

ANY = "0.0.0.0"  # noqa: S104
PORTS = ["", ":80", ":9101"]
ACCEPTED = ["localhost", "LocalHost", "127.0.0.1", "127.8.9.10", "[::1]"]
REFUSED = [
    *("rebound.example", "localhost.example", "127.0.0.1.example", "10.0.0.1", "[2001:db8::1]", ANY),
    *("rebound.example/localhost", "localhost, rebound.example", "[::1", "[localhost]"),
]
Ask = Callable[..., int]

on_loopback = pytest.mark.parametrize("ask", ["127.0.0.1", "::1", "localhost"], indirect=True)


@pytest.fixture
def ask(request: pytest.FixtureRequest) -> Iterator[Ask]:
    """Send one request with some Host headers to a server at an address; return the status of the answer."""
    address: str = request.param
    if ":" in address and not has_ipv6_loopback():
        pytest.skip("this machine has no IPv6 loopback address")
    server = WebServer(address, 0, {"/": lambda: Response("text/plain", b"here")})
    target = ("127.0.0.1" if address == ANY else address, server.port)

    def status(*hosts: str, protocol: str = "HTTP/1.1", method: str = "GET") -> int:
        lines = [f"{method} / {protocol}", *(f"Host: {host}" for host in hosts), "", ""]
        with socket.create_connection(target, timeout=PATIENCE_SECONDS) as client:
            client.sendall("\r\n".join(lines).encode())
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        code = int(answer.split()[1])
        assert (b"here" in answer) == (code == 200 and method == "GET")
        return code

    with contextlib.closing(server):
        yield status


@on_loopback
def test_a_server_on_loopback_accepts_loopback_names_with_and_without_a_port(ask: Ask) -> None:
    assert {host + port: ask(host + port) for host in ACCEPTED for port in PORTS} == dict.fromkeys(
        [host + port for host in ACCEPTED for port in PORTS], 200
    )


@on_loopback
def test_a_server_on_loopback_refuses_other_names_with_and_without_a_port(ask: Ask) -> None:
    assert {host + port: ask(host + port) for host in REFUSED for port in PORTS} == dict.fromkeys(
        [host + port for host in REFUSED for port in PORTS], 421
    )


@on_loopback
def test_each_of_several_host_headers_must_name_loopback(ask: Ask) -> None:
    assert ask("localhost", "rebound.example") == ask("rebound.example", "localhost") == 421
    assert ask("localhost", "127.0.0.1") == 200


@on_loopback
def test_an_empty_host_header_is_refused_and_a_missing_one_accepted(ask: Ask) -> None:
    """A browser sends the header with each request; a script with HTTP/1.0 need not."""
    assert ask("") == 421
    assert ask() == ask(protocol="HTTP/1.0") == 200


@on_loopback
def test_head_is_refused_like_get(ask: Ask) -> None:
    assert ask("rebound.example", method="HEAD") == 421
    assert ask("localhost", method="HEAD") == 200


@pytest.mark.parametrize("ask", [ANY], indirect=True)
def test_a_server_on_another_address_accepts_every_name(ask: Ask) -> None:
    assert {ask(host) for host in [*ACCEPTED, *REFUSED, "learner:9101", ""]} == {200}
