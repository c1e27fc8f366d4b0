"""The reliability page shows the stored results and nothing else."""

from __future__ import annotations

from tests.ci.reliability_report import TARGETS, render

MUTATED = {"cases": 12_500, "outcomes": {"size": 2}}


def row(page: str, start: str) -> list[str]:
    """The cells of the table row that starts with a text."""
    line = next(line for line in page.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_what_was_not_run_is_neither_met_nor_missed() -> None:
    page = render({}, {})
    assert page.count("not measured | ") >= len(TARGETS)
    assert "| met" not in page and "| missed" not in page


def test_a_step_out_of_balance_misses_its_target() -> None:
    sound = {"imbalance_steps": 0, "trained_twice_steps": 0}
    results = {name: dict(sound) for name in ("B1-killed-actors", "B2-killed-learners", "B3-partitions")}
    assert row(render(results, {}), "steps out of balance")[-1] == "met"
    results["B2-killed-learners"]["trained_twice_steps"] = 1
    assert row(render(results, {}), "steps out of balance")[-1] == "missed"


def test_the_parts_of_a_test_are_one_row() -> None:
    """Cases and outcomes add up."""
    page = render({"mutated-messages-0": MUTATED, "mutated-messages-1": MUTATED}, {})
    assert row(page, "mutated messages |")[1] == "25,000"
    assert row(page, "mutated-messages")[1] == "cases: 25,000; outcomes: size 4"


def test_short_forms_are_not_taken_for_long_ones() -> None:
    page = render({"B1-killed-actors-short": {"kills": 150, "counted_steps": 1}}, {})
    assert row(page, "kills of actors")[-1] == "not measured"
    assert "B1-killed-actors" not in page
