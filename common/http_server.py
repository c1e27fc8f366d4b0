"""A small read-only HTTP server: fixed paths, GET and HEAD, and a bounded number of connections.

It serves at most `CONNECTIONS` connections at a time, each for at most `DEADLINE_SECONDS` in total. At the
limit, a new connection closes the oldest one: a normal request takes only milliseconds.

A server on a loopback address refuses requests with another name in the Host header (421). Otherwise a
website whose name resolves to 127.0.0.1 could read the server through the browser of a user of this machine.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit

import structlog

from common.addresses import is_loopback_host

log = structlog.get_logger()

CONNECTIONS = 16
DEADLINE_SECONDS = 10.0
_PERMIT_SECONDS = 1.0  # the longest wait for the thread of a closed connection to end
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Response:
    """The response to a request for one path."""

    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)  # in addition to the standard ones


Routes = Mapping[str, Callable[[], Response]]
"""Maps each path to the function that makes its response; the threads of connections call it concurrently."""


class WebServer:
    """A running HTTP server of `routes`, with its threads; `close` stops it."""

    def __init__(self, address: str, port: int, routes: Routes) -> None:
        """Raises OSError if the address cannot be bound."""
        self._server = _Server(address, port, routes)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="web", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving and close every open connection."""
        self._server.shutdown()
        self._server.server_close()
        self._server.drop_connections(older_than_seconds=0.0)
        self._thread.join()


class _Server(ThreadingMixIn, HTTPServer):
    """An HTTP server with one thread per connection, and limits on connections and on their duration."""

    daemon_threads = True

    def __init__(self, address: str, port: int, routes: Routes) -> None:
        self.routes = routes
        self._permits = threading.BoundedSemaphore(CONNECTIONS)
        self._open: dict[socket.socket, float] = {}  # time of acceptance of each connection, oldest first
        self._lock = threading.Lock()
        family, *_, resolved = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        self.loopback = is_loopback_host(str(resolved[0]))
        super().__init__((str(resolved[0]), port), _Handler)

    def server_bind(self) -> None:
        """Bind without the reverse DNS lookup of HTTPServer."""
        super(HTTPServer, self).server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in its own thread; at the limit, close the oldest connection first."""
        if not self._permits.acquire(blocking=False):
            self._close_oldest()
            if not self._permits.acquire(timeout=_PERMIT_SECONDS):
                self.shutdown_request(request)
                return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # the system has no more threads
            self._permits.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection, then release its permit."""
        with self._lock:
            self._open[request] = time.monotonic()
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                del self._open[request]
            self._permits.release()

    def service_actions(self) -> None:
        """Close the connections that exceed the deadline; called twice a second."""
        self.drop_connections(older_than_seconds=DEADLINE_SECONDS)

    def drop_connections(self, older_than_seconds: float) -> None:
        """Shut down every connection of at least this age; its thread then ends with an error."""
        now = time.monotonic()
        with self._lock:
            for connection, since in self._open.items():
                if now - since >= older_than_seconds:
                    _shut_down(connection)

    def _close_oldest(self) -> None:
        with self._lock:
            for connection in list(self._open)[:1]:
                _shut_down(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error, unless the client closed the connection."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("page_failed", exc_info=error)


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        connection.shutdown(socket.SHUT_RDWR)


def _names_loopback(host: str) -> bool:
    """Whether the value of a Host header names the loopback interface; the port does not matter."""
    try:
        return is_loopback_host(urlsplit(f"//{host}").hostname or "")
    except ValueError:  # brackets without an IPv6 address
        return False


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = DEADLINE_SECONDS
    server_version, sys_version = "outrider", ""
    error_content_type, error_message_format = "text/plain", "%(code)d %(message)s\n"

    def do_GET(self) -> None:
        """Respond to GET, and to HEAD without the body.

        A request without a Host header is accepted, because every browser sends the header.
        """
        if self.server.loopback and not all(map(_names_loopback, self.headers.get_all("Host", []))):
            self.send_error(421)
            return
        respond = self.server.routes.get(urlsplit(self.path).path)
        if respond is None:
            self.send_error(404)
            return
        response = respond()
        headers = {"Content-Type": response.content_type, "Content-Length": str(len(response.body))}
        headers |= {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} | dict(response.headers)
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(response.body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Do nothing: requests are not logged."""
