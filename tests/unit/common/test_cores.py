"""The cores that a process may use: its affinity and the quotas of its cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common import cores
from common.cores import quota_cores, usable_cores


def write(directory: Path, text: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cpu.max").write_text(text + "\n")


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({}, float("inf")),
        ({"": "max 100000"}, float("inf")),
        ({"": "150000 100000"}, 1.5),
        ({"a": "max 100000", "a/b": "400000 100000"}, 4.0),
        ({"a": "200000 100000", "a/b": "400000 100000"}, 2.0),
        ({"a/b": "50000 100000"}, 0.5),
        ({"a/b": "garbage"}, float("inf")),
        ({"other": "100000 100000"}, float("inf")),
    ],
)
def test_the_least_quota_on_the_way_up_counts(
    quotas: dict[str, str], expected: float, tmp_path: Path
) -> None:
    for directory, text in quotas.items():
        write(tmp_path / directory, text)
    assert quota_cores("1:cpu:/x\n0::/a/b\n", tmp_path) == expected


def test_a_container_that_sees_its_own_cgroup_as_the_root_has_its_quota(tmp_path: Path) -> None:
    write(tmp_path, "200000 100000")
    for membership in ("0::/\n", "0::/../outside\n", "0::/seen/from/the/host\n", "1:cpu:/x\n", ""):
        assert quota_cores(membership, tmp_path) == 2.0


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.9, 1), (2.0, 2), (float("inf"), 3), (64.0, 3)])
def test_usable_cores_are_whole_and_within_affinity_and_quota(
    quota: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 5}, raising=False)
    monkeypatch.setattr(cores, "quota_cores", lambda membership, root: quota)
    assert usable_cores() == expected
