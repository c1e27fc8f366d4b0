"""The Prometheus exporter of a process and its children, on a fixed port, or on a free one if it is taken."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from common.durations import BOUNDS_SECONDS, Durations
from common.http_server import Response, Routes, WebServer
from common.memory import memory_use

LEARNER_PORT = 9101
ACTOR_PORT = 9100
DEFAULT_HOST = "127.0.0.1"  # with --metrics-host, other machines can scrape the port


def duration_histogram(name: str, documentation: str, durations: Durations) -> HistogramMetricFamily:
    """Return the histogram `outrider_NAME`."""
    bounds = [*map(str, BOUNDS_SECONDS), "+Inf"]
    buckets = [(bound, float(sum(durations.counts[: i + 1]))) for i, bound in enumerate(bounds)]
    return HistogramMetricFamily(f"outrider_{name}", documentation, buckets, durations.sum_seconds)


class MemoryCollector:
    """Exports the memory in use and its limit."""

    def collect(self) -> Iterator[Metric]:
        """Yield both families; none if the system does not tell."""
        use = memory_use()
        if use is not None:
            yield GaugeMetricFamily(
                "outrider_memory_used_bytes",
                "Memory in use, without page cache, of the container, or of the machine without a limit.",
                use.used_bytes,
            )
            yield GaugeMetricFamily(
                "outrider_memory_limit_bytes",
                "Memory limit of the container, or memory of the machine without a limit.",
                use.limit_bytes,
            )


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
