"""A small read-only HTTP server: fixed paths, GET and HEAD, and bounds on whoever reads.

At most `CONNECTIONS` at a time, each for at most `DEADLINE_SECONDS` in all, however slowly it reads or
writes. Where all places are taken, whoever holds one longest loses it: honest readers are done in
milliseconds.
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

log = structlog.get_logger()

CONNECTIONS = 16
DEADLINE_SECONDS = 10.0
_YIELD_SECONDS = 1.0  # what one that loses its place has to end
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """What a path gives."""

    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)  # further ones


Answers = Mapping[str, Callable[[], Answer]]
"""By path. Called in the threads of the readers, several at once."""


class WebServer:
    """Serves `answers` until closed."""

    def __init__(self, address: str, port: int, answers: Answers) -> None:
        """Raises OSError: the address cannot be served."""
        self._server = _Server(address, port, answers)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="web", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving; connections that are open end."""
        self._server.shutdown()
        self._server.server_close()
        self._server.drop_connections(older_than_seconds=0.0)
        self._thread.join()


class _Server(ThreadingMixIn, HTTPServer):
    daemon_threads = True

    def __init__(self, address: str, port: int, answers: Answers) -> None:
        self.answers = answers
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        self._open: dict[socket.socket, float] = {}  # since when, the oldest first
        self._lock = threading.Lock()
        family, *_, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        super().__init__((str(where[0]), port), _Handler)

    def server_bind(self) -> None:
        """Bind, without HTTPServer's question to the name service for its own name."""
        super(HTTPServer, self).server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a place and a thread."""
        if not self._places.acquire(blocking=False):
            self._cut_oldest()
            if not self._places.acquire(timeout=_YIELD_SECONDS):
                self.shutdown_request(request)
                return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # the system has no more threads
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection, then free its place."""
        with self._lock:
            self._open[request] = time.monotonic()
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                del self._open[request]
            self._places.release()

    def service_actions(self) -> None:
        """Between two looks at the port: end what takes too long."""
        self.drop_connections(older_than_seconds=DEADLINE_SECONDS)

    def drop_connections(self, older_than_seconds: float) -> None:
        """End connections; their threads find them closed."""
        now = time.monotonic()
        with self._lock:
            for connection, since in self._open.items():
                if now - since >= older_than_seconds:
                    _end(connection)

    def _cut_oldest(self) -> None:
        with self._lock:
            for connection in list(self._open)[:1]:
                _end(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that went away is no news; anything else is a mistake of ours."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("page_failed", exc_info=error)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it ended by itself
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = DEADLINE_SECONDS
    server_version, sys_version = "outrider", ""
    error_content_type, error_message_format = "text/plain", "%(code)d %(message)s\n"

    def do_GET(self) -> None:
        """Answer; HEAD gives the same without the body."""
        answer = self.server.answers.get(urlsplit(self.path).path)
        if answer is None:
            self.send_error(404)
            return
        given = answer()
        headers = {"Content-Type": given.content_type, "Content-Length": str(len(given.body))}
        headers |= {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} | dict(given.headers)
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(given.body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing of each request."""
