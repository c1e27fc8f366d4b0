"""Exports every metric of a learner with the label `run`, and those of its container and disk."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry

from common.metrics import MemoryCollector
from learner.monitoring.families import Family, gauge


class DiskCollector:
    """Exports the free space of the disk that holds the run directory."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def collect(self) -> Iterator[Family]:
        """Yield both families; none if the directory cannot be read."""
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(self._run_dir)
            yield gauge("run_disk_free_bytes", "Free space of the disk of the run directory.", usage.free)
            yield gauge("run_disk_size_bytes", "Size of the disk of the run directory.", usage.total)


class RunCollector:
    """Adds the label `run` to every sample, so that one Prometheus can tell several runs apart.

    Args:
        registry: the metrics of the learner.
        run_dir: the directory of the run, whose name is the value of the label.
    """

    def __init__(self, registry: CollectorRegistry, run_dir: Path) -> None:
        registry.register(MemoryCollector())
        registry.register(DiskCollector(run_dir))
        self._inner, self._run = registry, run_dir.resolve().name

    def collect(self) -> Iterator[Family]:
        """Yield every family."""
        for family in self._inner.collect():
            family.samples = [
                sample._replace(labels={**sample.labels, "run": self._run}) for sample in family.samples
            ]
            yield family

    def registry(self) -> CollectorRegistry:
        """Return a registry of this collector."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry
