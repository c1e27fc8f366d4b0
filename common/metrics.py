"""The Prometheus exporter: one per process tree, on a fixed port or the next best."""

from __future__ import annotations

import prometheus_client
from prometheus_client import CollectorRegistry

LEARNER_PORT = 9101
ACTOR_PORT = 9100
DEFAULT_HOST = "127.0.0.1"  # who scrapes from elsewhere says so with --metrics-host


class Exporter:
    """Serves a registry over HTTP until closed."""

    def __init__(self, registry: CollectorRegistry, port: int, address: str) -> None:
        try:
            self._server, self._thread = prometheus_client.start_http_server(port, address, registry)
        except OSError:  # taken: a second run on this machine still wants to be seen
            self._server, self._thread = prometheus_client.start_http_server(0, address, registry)
        self.port = int(self._server.server_port)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
