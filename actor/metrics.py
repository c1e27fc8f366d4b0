"""The Prometheus metrics of actors. One process exports those of all actors that it started."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from common.durations import Durations
from common.metrics import MemoryCollector, duration_histogram
from common.protocol.messages import Phase

PHASES = get_args(Phase)


class FleetCollector:
    """Sums the newest statistics of the actors that one process has started.

    The sums include the counts of actors that have ended, so no counter decreases.
    """

    def __init__(self) -> None:
        self.fetches = Durations()  # of weights, by this process
        self._live: dict[int, Mapping[str, float]] = {}
        self._ended: defaultdict[str, float] = defaultdict(float)

    def add_fetch(self, seconds: float) -> None:
        """Count a fetch of weights."""
        self.fetches = self.fetches.with_one(seconds)

    def update(self, actor: int, stats: Mapping[str, float]) -> None:
        """Replace the statistics of one actor."""
        self._live[actor] = stats

    def end(self, actor: int) -> None:
        """Keep the counts of an actor that has ended and drop its gauges."""
        for name, value in self._live.pop(actor, {}).items():
            if name.startswith(("phase_", "steps", "chunks", "reconnects")):
                self._ended[name] += value

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family."""
        total = self._ended.copy()
        live = list(self._live.values())
        for stats in live:
            for name, value in stats.items():
                total[name] += value
        yield CounterMetricFamily(
            "outrider_actor_env_steps", "Total number of environment steps.", total["steps"]
        )
        yield CounterMetricFamily(
            "outrider_actor_reconnects",
            "Total number of connections opened again after the learner sent nothing for 10 s.",
            total["reconnects"],
        )
        phases = CounterMetricFamily(
            "outrider_actor_phase_seconds", "Total time by phase, in seconds.", labels=["phase"]
        )
        for phase in PHASES:
            phases.add_metric([phase], total[f"phase_{phase}"])
        yield phases
        chunks = CounterMetricFamily(
            "outrider_actor_chunks",
            "Total number of chunks sent, sent again, and settled by the learner.",
            labels=["outcome"],
        )
        for outcome in ("sent", "retransmitted", "settled"):
            chunks.add_metric([outcome], total[f"chunks_{outcome}"])
        yield chunks
        yield GaugeMetricFamily(
            "outrider_actor_connected",
            "Number of actors that are connected to the learner.",
            total["connected"],
        )
        yield GaugeMetricFamily(
            "outrider_actor_unsettled_steps",
            "Number of environment steps kept until the learner settles them.",
            total["unsettled"],
        )
        yield duration_histogram(
            "actor_weights_fetch_seconds",
            "Time to fetch weights from the learner, in seconds.",
            self.fetches,
        )
        versions = [stats["version"] for stats in live if "version" in stats]
        yield GaugeMetricFamily(
            "outrider_actor_weights_version",
            "Oldest weights version in use; -1 if none.",
            min(versions, default=-1),
        )

    def registry(self) -> CollectorRegistry:
        """Return a registry of this collector and of the process's standard metrics."""
        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(MemoryCollector())
        registry.register(self)
        return registry
