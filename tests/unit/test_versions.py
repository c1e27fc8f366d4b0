"""The lowest versions that pyproject.toml allows can be installed and tested."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.ci.versions import lowest

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def test_each_dependency_has_a_lower_bound_that_can_be_installed() -> None:
    lines = lowest(PROJECT["dependencies"]).splitlines()
    assert len(lines) == len(PROJECT["dependencies"])
    assert "ale-py==0.12.1" in lines  # 0.12.0 ships no ROMs


@pytest.mark.parametrize("requirement", ["numpy", "numpy==2.0", "numpy>=2.0,<3", "numpy>2"])
def test_a_requirement_without_a_plain_lower_bound_is_refused(requirement: str) -> None:
    with pytest.raises(ValueError, match="expected NAME>=VERSION"):
        lowest([requirement])


def test_an_extra_does_not_belong_to_the_constraint() -> None:
    assert lowest(["gymnasium[classic-control,box2d]>=1.2.3"]) == "gymnasium==1.2.3\n"
