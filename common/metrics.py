"""The Prometheus exporter of a process and its children, on a fixed port, or on a free one if it is taken."""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from common.http_server import Response, Routes, WebServer

LEARNER_PORT = 9101
ACTOR_PORT = 9100
DEFAULT_HOST = "127.0.0.1"  # with --metrics-host, other machines can scrape the port


class Exporter:
    """Serves a registry at /metrics, and the paths of `routes`, over HTTP until closed."""

    def __init__(
        self, registry: CollectorRegistry, port: int, address: str, routes: Routes | None = None
    ) -> None:
        lock = threading.Lock()  # collectors keep state between scrapes; each connection has a thread

        def scrape() -> Response:
            with lock:
                return Response(CONTENT_TYPE_LATEST, generate_latest(registry))

        all_routes = {**(routes or {}), "/metrics": scrape}
        try:
            self._server = WebServer(address, port, all_routes)
        except OSError:  # taken, for example by a second run on this machine
            self._server = WebServer(address, 0, all_routes)
        self.port = self._server.port

    def close(self) -> None:
        """Stop serving."""
        self._server.close()
