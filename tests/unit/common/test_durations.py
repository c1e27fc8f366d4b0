"""Histograms of durations, against a count by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor import timed_weights
from actor.timed_weights import TimedWeights
from common.durations import BOUNDS_SECONDS, Durations
from common.metrics import duration_histogram
from tests.support.clock import Clock


@given(st.lists(st.floats(0.0, 1000.0) | st.sampled_from(BOUNDS_SECONDS)))
def test_each_bucket_counts_the_durations_up_to_its_bound(seconds: list[float]) -> None:
    durations = Durations()
    for one in seconds:
        durations = durations.with_one(one)
    samples = duration_histogram("x_seconds", "Some time.", durations).samples
    for sample in samples:
        if sample.name == "outrider_x_seconds_bucket":
            assert sample.value == sum(one <= float(sample.labels["le"]) for one in seconds)
    totals = {sample.name: sample.value for sample in samples if not sample.labels}
    assert totals["outrider_x_seconds_count"] == len(seconds)
    assert totals["outrider_x_seconds_sum"] == pytest.approx(sum(seconds))


def test_a_fetch_is_timed_if_it_returned_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, reported = Clock(), list[float]()
    monkeypatch.setattr(timed_weights, "time", clock)

    def fetch(name: str, held: object, keep_waiting: object) -> str | None:
        clock.now += 3.0
        return name if name == "bundle" else None

    source: Any = SimpleNamespace(fetch=fetch)
    weights = TimedWeights(source, reported.append)
    results = [weights.fetch(name, (-1, -1), lambda: True) for name in ("bundle", "target")]
    assert results == ["bundle", None]
    assert reported == [3.0]
