"""The page of benchmarks shows the stored results and nothing else."""

from __future__ import annotations

import pytest

from tests.bench.report import render
from tests.bench.targets import TARGETS, Target

TEMPLATE = "{hardware}{targets}{actor}{learner}{train}{wire}{fleet}{weights}{growth}{shortfalls}"


def target(*least: float, aim: float | None = None, at_most: bool = False) -> Target:
    return Target("speed", lambda results: tuple(results["it"]["values"]), least, aim, at_most=at_most)


@pytest.mark.parametrize(
    ("values", "verdict"), [((5.0,), "met"), ((4.999,), "missed"), ((7.0,), "met, with its aim")]
)
def test_a_lower_bound_includes_its_value(values: tuple[float, ...], verdict: str) -> None:
    assert target(5, aim=7).verdict(values) == verdict


@pytest.mark.parametrize(
    ("values", "verdict"), [((300.0,), "met"), ((300.1,), "missed"), ((200.0,), "met, with its aim")]
)
def test_an_upper_bound_includes_its_value(values: tuple[float, ...], verdict: str) -> None:
    assert target(300, aim=200, at_most=True).verdict(values) == verdict


def test_one_value_beyond_its_bound_misses_the_target() -> None:
    assert target(0, 1, at_most=True).verdict((0.0, 0.9)) == "met"
    assert target(0, 1, at_most=True).verdict((1.0, 0.9)) == "missed"
    assert target(0, 1, at_most=True).verdict((0.0, 1.1)) == "missed"


def test_not_a_number_is_a_miss() -> None:
    assert target(1).verdict((float("nan"),)) == "missed"
    assert target(1, at_most=True).verdict((float("nan"),)) == "missed"


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert target(5).row({})[1::2] == ["not measured", "not measured"]
    page = render({}, TEMPLATE, "")
    assert page.count("not measured") >= 2 * len(TARGETS)
    assert "met" not in page.replace("not measured", "").split()


def test_a_figure_of_the_page_is_the_figure_of_the_results() -> None:
    fleet = {
        "processor": "P",
        "cores": 2,
        "torch": "2",
        "bfloat16": False,
        "chunks_per_second": 612.5,
        "actors": 256,
    }
    fleet |= {"imbalance_steps": 0, "miscounted_steps": 128, "memory_slope_mb_per_minute": 0.25}
    page = render({"fleet-256": fleet}, TEMPLATE, "the reason")
    assert "| chunks per second | 612.5 |" in page
    row = next(row for row in page.splitlines() if "out of balance" in row)
    assert "128, 0.25" in row and row.endswith("missed |")  # the counts of the actors differ from the ledger
    assert "the reason" in page and "bfloat16 not native" in page
