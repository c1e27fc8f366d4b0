"""Each fault scenario in a short form (`make test-slow`) and in a long form (`pytest -m chaos`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import disk_faults, network_faults, process_faults
from tests.support.result_files import keep

Case = tuple[str, Callable[..., dict[str, Any]], tuple[Any, ...], tuple[Any, ...]]
CASES: list[Case] = [
    ("B1-killed-actors", process_faults.killed_actors, (6,), (150,)),
    ("B2-killed-learners", process_faults.killed_learners, (2,), (20,)),
    ("B3-partitions", network_faults.partitions, (4, (9.0, 14.0)), (30, (3.0, 60.0))),
    ("B4-frozen-processes", process_faults.frozen_processes, (12.0, 5.0), (20.0, 20.0)),
    ("B5-broken-connections", network_faults.broken_connections, (80_000, 3.0), (200_000, 120.0)),
    ("B6-slow-actor", network_faults.slow_actor, (6.0,), (60.0,)),
    ("B7-slow-learner", process_faults.slow_learner, (2.0, 3, 1), (30.0, 6, 1)),
    ("B9-wedged-learner", process_faults.wedged_learner, (10.0,), (120.0,)),
    ("B10-full-disk", disk_faults.full_disk, (1.0,), (60.0,)),
    ("B10-damaged-checkpoints", disk_faults.damaged_checkpoints, (), ()),
    ("B11-replayed-frames", network_faults.replayed_frames, (40,), (2_000,)),
    ("B11-damaged-bytes", network_faults.damaged_bytes, (5.0,), (120.0,)),
    ("B12-terminated", process_faults.terminated, (), ()),
]
NAMES = [case[0] for case in CASES]


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize(("name", "scenario", "sizes", "_"), CASES, ids=NAMES)
def test_short(name: str, scenario: Any, sizes: tuple[Any, ...], _: Any, tmp_path: Path) -> None:
    keep(f"{name}-short", scenario(tmp_path, *sizes))


@pytest.mark.chaos
@pytest.mark.parametrize(("name", "scenario", "_", "sizes"), CASES, ids=NAMES)
def test_long(name: str, scenario: Any, _: Any, sizes: tuple[Any, ...], tmp_path: Path) -> None:
    figures = scenario(tmp_path, *sizes)
    keep(name, figures)
    for bound in [name for name in figures if name.endswith("_bound")]:
        assert figures[bound.removesuffix("_bound")] < figures[bound], bound
