"""What an actor counts, and its Prometheus exporter. One exporter per host process tree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from common.protocol.messages import Phase

PHASES = get_args(Phase)


class FleetCollector:
    """Exports the sums over the actors of one host, from the newest figures of each.

    Counters of actors that ended stay in the sums, so no total goes back.
    """

    def __init__(self) -> None:
        self._live: dict[int, Mapping[str, float]] = {}
        self._ended: defaultdict[str, float] = defaultdict(float)

    def update(self, actor: int, stats: Mapping[str, float]) -> None:
        """Replace the figures of one actor."""
        self._live[actor] = stats

    def end(self, actor: int) -> None:
        """Keep an ended actor's counts, drop its gauges."""
        for name, value in self._live.pop(actor, {}).items():
            if name.startswith(("phase_", "steps", "chunks", "reconnects")):
                self._ended[name] += value

    def collect(self) -> Iterator[Metric]:
        """Prometheus families, built anew for each scrape."""
        total = self._ended.copy()
        for stats in list(self._live.values()):
            for name, value in stats.items():
                total[name] += value
        yield CounterMetricFamily("outrider_actor_env_steps", "Environment steps.", total["steps"])
        yield CounterMetricFamily("outrider_actor_reconnects", "Connections made anew.", total["reconnects"])
        phases = CounterMetricFamily("outrider_actor_phase_seconds", "Time by phase.", labels=["phase"])
        for phase in PHASES:
            phases.add_metric([phase], total[f"phase_{phase}"])
        yield phases
        chunks = CounterMetricFamily("outrider_actor_chunks", "Chunks by outcome.", labels=["outcome"])
        for outcome in ("sent", "retransmitted", "settled"):
            chunks.add_metric([outcome], total[f"chunks_{outcome}"])
        yield chunks
        yield GaugeMetricFamily(
            "outrider_actor_connected", "Actors with a place at the learner.", total["connected"]
        )
        yield GaugeMetricFamily(
            "outrider_actor_unsettled_steps", "Steps kept until settled.", total["unsettled"]
        )
        versions = [stats["version"] for stats in list(self._live.values()) if "version" in stats]
        yield GaugeMetricFamily(
            "outrider_actor_weights_version", "Oldest bundle in use.", min(versions, default=-1)
        )

    def registry(self) -> CollectorRegistry:
        """A registry that holds this collector and the process's own figures."""
        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(self)
        return registry
