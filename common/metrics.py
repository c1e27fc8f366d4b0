"""The Prometheus exporter: one per process tree, on a fixed port or the next best."""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from common.http_server import Answer, Answers, WebServer

LEARNER_PORT = 9101
ACTOR_PORT = 9100
DEFAULT_HOST = "127.0.0.1"  # who scrapes from elsewhere says so with --metrics-host


class Exporter:
    """Serves a registry at /metrics, and `pages` beside it, over HTTP until closed."""

    def __init__(
        self, registry: CollectorRegistry, port: int, address: str, pages: Answers | None = None
    ) -> None:
        in_turn = threading.Lock()  # collectors remember the last minute; readers come in threads

        def scrape() -> Answer:
            with in_turn:
                return Answer(CONTENT_TYPE_LATEST, generate_latest(registry))

        answers = {**(pages or {}), "/metrics": scrape}
        try:
            self._server = WebServer(address, port, answers)
        except OSError:  # taken: a second run on this machine still wants to be seen
            self._server = WebServer(address, 0, answers)
        self.port = self._server.port

    def close(self) -> None:
        """Stop serving."""
        self._server.close()
