"""The bounds of the HTTP server, held against slow and hostile readers on real sockets."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry, Metric

from common import http_server
from common.http_server import CONNECTIONS, Answer, WebServer
from common.metrics import Exporter
from tests.support.processes import PATIENCE_SECONDS, wait_until

LARGE = b"x" * 2**26  # more than the kernel takes from a writer whose reader reads nothing


def fail() -> Answer:
    raise ConnectionResetError


@pytest.fixture
def server() -> Iterator[WebServer]:
    answers = {
        "/": lambda: Answer("text/plain", b"here", {"Further": "header"}),
        "/large": lambda: Answer("text/plain", LARGE),
        "/broken": fail,
    }
    server = WebServer("127.0.0.1", 0, answers)
    yield server
    server.close()


def ask(port: int, method: str, path: str) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    connection.request(method, path)
    with connection.getresponse() as answer:
        return answer.status, answer.read(), answer.headers


def opened(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)


def closes(connection: socket.socket, drip: bytes) -> bool:
    """Send a byte every 50 ms until the other end is gone; False if it stays."""
    end = time.monotonic() + PATIENCE_SECONDS
    connection.settimeout(0.05)
    while time.monotonic() < end:
        try:
            connection.send(drip)
            if not connection.recv(1):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_paths_are_read_and_nothing_else_is_done(server: WebServer) -> None:
    """GET and HEAD of a known path, with or without a query; others are refused in a word."""
    status, body, headers = ask(server.port, "GET", "/?anything=1")
    assert (status, body, headers["Further"]) == (200, b"here", "header")
    assert headers["X-Content-Type-Options"] == "nosniff"
    status, body, headers = ask(server.port, "HEAD", "/")
    assert (status, body, headers["Content-Length"]) == (200, b"", "4")
    assert ask(server.port, "GET", "/other")[:2] == (404, b"404 Not Found\n")
    assert ask(server.port, "GET", "/../page.html")[0] == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        assert ask(server.port, method, "/")[0] == 501


def test_whoever_holds_every_place_keeps_nobody_out(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that holds a place longest loses it, and only that one."""
    monkeypatch.setattr(http_server, "DEADLINE_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(http_server._Handler, "timeout", PATIENCE_SECONDS)
    held = []
    for _ in range(CONNECTIONS):
        held.append(opened(server.port))
        wait_until(lambda: len(server._server._open) == len(held), "connections taken in in this order")
    assert ask(server.port, "GET", "/")[0] == 200
    assert held[0].recv(1) == b""
    held[-1].sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert held[-1].recv(12) == b"HTTP/1.0 200"
    for connection in held:
        connection.close()


def test_one_that_drips_its_request_is_cut_off_at_the_deadline(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it says something."""
    monkeypatch.setattr(http_server, "DEADLINE_SECONDS", 0.5)
    with opened(server.port) as connection:
        assert closes(connection, b"x")


def test_one_that_never_reads_its_answer_is_cut_off_at_the_deadline(
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


def test_an_answer_that_fails_ends_its_connection_alone(server: WebServer) -> None:
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask(server.port, "GET", "/broken")
    assert ask(server.port, "GET", "/")[0] == 200


def test_closing_ends_connections_that_are_open(server: WebServer) -> None:
    with opened(server.port) as connection:
        assert ask(server.port, "GET", "/")[0] == 200  # it was taken in before this
        server.close()
        assert connection.recv(1) == b""


def test_a_second_exporter_takes_another_port_and_shows_metrics_alone() -> None:
    first = Exporter(CollectorRegistry(), 0, "127.0.0.1")
    second = Exporter(CollectorRegistry(), first.port, "127.0.0.1")
    try:
        assert second.port != first.port
        status, _, headers = ask(second.port, "GET", "/metrics")
        assert status == 200 and headers["Content-Type"].startswith("text/plain")
        assert ask(second.port, "GET", "/")[0] == 404
    finally:
        first.close()
        second.close()


def test_scrapes_at_one_time_are_collected_in_turn() -> None:
    """A collector remembers what it showed last, and is not made for two threads."""
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
        with ThreadPoolExecutor(4) as readers:
            asked = list(readers.map(lambda _: ask(exporter.port, "GET", "/metrics")[0], range(4)))
    finally:
        exporter.close()
    assert (asked, most) == ([200] * 4, 1)
