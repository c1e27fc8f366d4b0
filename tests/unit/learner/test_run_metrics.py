"""The label `run` and the metrics of the run's disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest

from learner.monitoring.run_metrics import RunCollector

NAME = 'a "b"\\c'


@pytest.fixture
def registry(tmp_path: Path) -> CollectorRegistry:
    inner = CollectorRegistry()
    Counter("outrider_x", "Some count.", ["reason"], registry=inner).labels("r").inc(3)
    Histogram("outrider_y", "Some times.", registry=inner, buckets=(1,)).observe(0.5)
    (tmp_path / NAME).mkdir()
    return RunCollector(inner, tmp_path / NAME).registry()


def test_every_sample_has_the_name_of_the_run_directory_as_a_label(registry: CollectorRegistry) -> None:
    """Other labels and values stay, and any name can be written."""
    samples = [sample for family in registry.collect() for sample in family.samples]
    assert {sample.labels["run"] for sample in samples} == {NAME}
    assert registry.get_sample_value("outrider_x_total", {"reason": "r", "run": NAME}) == 3
    assert registry.get_sample_value("outrider_y_bucket", {"le": "1.0", "run": NAME}) == 1
    assert b'run="a \\"b\\"\\\\c"' in generate_latest(registry)


def test_the_disk_is_that_of_the_run_directory(registry: CollectorRegistry) -> None:
    free = registry.get_sample_value("outrider_run_disk_free_bytes", {"run": NAME})
    size = registry.get_sample_value("outrider_run_disk_size_bytes", {"run": NAME})
    assert free is not None and size is not None and 0 < free <= size


def test_a_run_directory_that_is_gone_has_no_disk(tmp_path: Path) -> None:
    """The other metrics stay."""
    registry = RunCollector(CollectorRegistry(), tmp_path / "gone").registry()
    assert registry.get_sample_value("outrider_run_disk_free_bytes", {"run": "gone"}) is None
