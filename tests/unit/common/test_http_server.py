"""The limits of the HTTP server, with slow and hostile clients on real sockets."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry, Metric

from common import http_server
from common.http_server import CONNECTIONS, Response, WebServer
from common.metrics import Exporter
from tests.support.processes import PATIENCE_SECONDS, wait_until

LARGE = b"x" * 2**26  # more than the kernel buffers for a client that reads nothing


def fail() -> Response:
    raise ConnectionResetError


@pytest.fixture
def server() -> Iterator[WebServer]:
    routes = {
        "/": lambda: Response("text/plain", b"here", {"Further": "header"}),
        "/large": lambda: Response("text/plain", LARGE),
        "/broken": fail,
    }
    server = WebServer("127.0.0.1", 0, routes)
    yield server
    server.close()


def request(port: int, method: str, path: str) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    connection.request(method, path)
    with connection.getresponse() as response:
        return response.status, response.read(), response.headers


def opened(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)


def closes(connection: socket.socket, data: bytes) -> bool:
    """Whether the server closes the connection while the client sends `data` every 50 ms."""
    end = time.monotonic() + PATIENCE_SECONDS
    connection.settimeout(0.05)
    while time.monotonic() < end:
        try:
            connection.send(data)
            if not connection.recv(1):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_known_paths_are_served_and_other_requests_are_refused(server: WebServer) -> None:
    """GET and HEAD of a known path, with or without a query; everything else is refused."""
    status, body, headers = request(server.port, "GET", "/?anything=1")
    assert (status, body, headers["Further"]) == (200, b"here", "header")
    assert headers["X-Content-Type-Options"] == "nosniff"
    status, body, headers = request(server.port, "HEAD", "/")
    assert (status, body, headers["Content-Length"]) == (200, b"", "4")
    assert request(server.port, "GET", "/other")[:2] == (404, b"404 Not Found\n")
    assert request(server.port, "GET", "/../page.html")[0] == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        assert request(server.port, method, "/")[0] == 501


def test_a_client_that_holds_every_connection_blocks_no_other(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new connection closes the oldest one, and only that one."""
    monkeypatch.setattr(http_server, "DEADLINE_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(http_server._Handler, "timeout", PATIENCE_SECONDS)
    held = []
    for _ in range(CONNECTIONS):
        held.append(opened(server.port))
        wait_until(lambda: len(server._server._open) == len(held), "the connection to be accepted")
    assert request(server.port, "GET", "/")[0] == 200
    assert held[0].recv(1) == b""
    held[-1].sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert held[-1].recv(12) == b"HTTP/1.0 200"
    for connection in held:
        connection.close()


def test_a_client_that_sends_its_request_slowly_is_closed_at_the_deadline(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline does not move with the bytes that it sends."""
    monkeypatch.setattr(http_server, "DEADLINE_SECONDS", 0.5)
    with opened(server.port) as connection:
        assert closes(connection, b"x")


def test_a_client_that_never_reads_its_response_is_closed_at_the_deadline(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "DEADLINE_SECONDS", 0.5)
    with opened(server.port) as connection:
        connection.sendall(b"GET /large HTTP/1.0\r\n\r\n")
        received = len(connection.recv(1))
        wait_until(lambda: not server._server._open, "the end of the connection")
        while part := connection.recv(2**20):
            received += len(part)
        assert received < len(LARGE)


def test_a_response_that_fails_ends_its_connection_alone(server: WebServer) -> None:
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        request(server.port, "GET", "/broken")
    assert request(server.port, "GET", "/")[0] == 200


def test_closing_ends_the_open_connections(server: WebServer) -> None:
    with opened(server.port) as connection:
        assert request(server.port, "GET", "/")[0] == 200  # the server accepted `connection` before this one
        server.close()
        assert connection.recv(1) == b""


def test_a_second_exporter_takes_another_port_and_shows_metrics_alone() -> None:
    first = Exporter(CollectorRegistry(), 0, "127.0.0.1")
    second = Exporter(CollectorRegistry(), first.port, "127.0.0.1")
    try:
        assert second.port != first.port
        status, _, headers = request(second.port, "GET", "/metrics")
        assert status == 200 and headers["Content-Type"].startswith("text/plain")
        assert request(second.port, "GET", "/")[0] == 404
    finally:
        first.close()
        second.close()


def test_concurrent_scrapes_are_collected_one_after_another() -> None:
    """A collector keeps state between scrapes, and is not safe for threads."""
    inside, most = 0, 0

    class Slow:
        def collect(self) -> list[Metric]:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            time.sleep(0.05)
            inside -= 1
            return []

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Slow())
    exporter = Exporter(registry, 0, "127.0.0.1")
    try:
        with ThreadPoolExecutor(4) as clients:
            statuses = list(clients.map(lambda _: request(exporter.port, "GET", "/metrics")[0], range(4)))
    finally:
        exporter.close()
    assert (statuses, most) == ([200] * 4, 1)
