"""The parent of several actors: when it ends, with which exit code, and what it counts."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from actor.fleet import Fleet
from actor.metrics import FleetCollector
from actor.weights import WeightsSource
from common.process.children import Child, ChildProcesses, Exit


class FakeChildProcesses:
    """Implements `ChildProcesses`: its children exit with `codes`, one at each tick, and with `at_stop`."""

    def __init__(self, codes: list[int], at_stop: list[int]) -> None:
        self.children: list[Child] = []
        self._codes, self._at_stop = codes, at_stop
        self._count = 0

    @property
    def alive(self) -> int:
        return len(self._codes) + len(self._at_stop)

    def tick(self) -> list[Exit]:
        return [self._exit(self._codes.pop(0))] if self._codes else []

    def stop(self) -> list[Exit]:
        return [self._exit(code) for code in self._at_stop]

    def _exit(self, code: int) -> Exit:
        self._count += 1
        return Exit(self._count, code, bytes(16), 0)


def run(directory: Path, codes: list[int], at_stop: list[int], stop: Event) -> int:
    children = cast(ChildProcesses, FakeChildProcesses(codes, at_stop))
    return Fleet(children, cast(WeightsSource, None), directory, FleetCollector()).run(stop)


@pytest.mark.parametrize(("codes", "expected"), [([0, 0], 0), ([0, 78], 78), ([78, 0, 0], 78)])
def test_a_fleet_ends_when_every_actor_has_ended_for_good(
    codes: list[int], expected: int, tmp_path: Path
) -> None:
    assert run(tmp_path, codes, [], Event()) == expected


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([0, 0], 0), ([0, -9], 75), ([75, 75], 75), ([], 75), ([75, 78, 0], 78)],
    ids=["finished", "kill", "stopped", "before the start", "worst"],
)
def test_a_fleet_that_is_stopped_has_the_worst_code_of_its_actors(
    codes: list[int], expected: int, tmp_path: Path
) -> None:
    stop = Event()
    stop.set()
    assert run(tmp_path, [], codes, stop) == expected


def test_the_counts_of_actors_that_ended_stay_in_the_sums_and_their_gauges_do_not() -> None:
    collector = FleetCollector()
    for number, steps in ((0, 30.0), (1, 40.0)):
        collector.update(number, {"steps": steps, "connected": 1.0, "phase_env": 2.0, "chunks_sent": 5.0})
    collector.end(0)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    assert registry.get_sample_value("outrider_actor_env_steps_total") == 70.0
    assert registry.get_sample_value("outrider_actor_chunks_total", {"outcome": "sent"}) == 10.0
    assert registry.get_sample_value("outrider_actor_phase_seconds_total", {"phase": "env"}) == 4.0
    assert registry.get_sample_value("outrider_actor_connected") == 1.0
