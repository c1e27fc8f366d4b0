"""Builds Prometheus metric families from the values at a scrape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

Family = Metric
_PREFIX = "outrider_"


def gauge(name: str, documentation: str, value: float) -> Family:
    """Return a gauge without labels."""
    return GaugeMetricFamily(_PREFIX + name, documentation, value)


def counter(name: str, documentation: str, value: float) -> Family:
    """Return a counter without labels; Prometheus adds `_total` to its name."""
    return CounterMetricFamily(_PREFIX + name, documentation, value)


def gauges(name: str, documentation: str, label: str, values: Mapping[str, float]) -> Family:
    """Return a gauge with one sample for each value of a label."""
    family = GaugeMetricFamily(_PREFIX + name, documentation, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def counters(name: str, documentation: str, label: str, values: Mapping[str, float]) -> Family:
    """Return a counter with one sample for each value of a label."""
    return labelled_counters(name, documentation, (label,), {(key,): value for key, value in values.items()})


def labelled_counters(
    name: str, documentation: str, labels: Sequence[str], values: Mapping[tuple[str, ...], float]
) -> Family:
    """Return a counter with one sample for each combination of the values of several labels."""
    family = CounterMetricFamily(_PREFIX + name, documentation, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def info(name: str, documentation: str, labels: Mapping[str, str]) -> Family:
    """Return a gauge of value 1 whose labels are the information."""
    family = GaugeMetricFamily(_PREFIX + name, documentation, labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def histogram(name: str, documentation: str, counts: Mapping[int, int], bounds: Sequence[int]) -> Family:
    """Return a histogram of whole numbers.

    Args:
        counts: how often each number occurred.
        bounds: upper bounds of the buckets, inclusive.
    """
    family = HistogramMetricFamily(_PREFIX + name, documentation)
    buckets = [
        (str(float(bound)), float(sum(count for number, count in counts.items() if number <= bound)))
        for bound in bounds
    ]
    total = float(sum(number * count for number, count in counts.items()))
    family.add_metric([], [*buckets, ("+Inf", float(sum(counts.values())))], total)
    return family
