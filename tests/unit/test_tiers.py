"""A former test is traced to its tier today, or to its successor."""

from __future__ import annotations

import pytest

from tests.ci.tiers import parse, tier, trace

TODAY = {"a.py::test_x": "fast", "a.py::test_new[1]": "slow", "a.py::test_new[2]": "fast"}


@pytest.mark.parametrize(
    ("markers", "name"),
    [
        ((), "fast"),
        (("integration", "parametrize"), "fast"),
        (("integration", "slow"), "slow"),
        (("slow", "chaos"), "chaos"),
        (("compose", "compose_short"), "compose"),
        (("compose_short",), "fast"),
    ],
)
def test_a_marker_decides_the_tier(markers: tuple[str, ...], name: str) -> None:
    assert tier(markers) == name


@pytest.mark.parametrize(
    ("former", "traced"),
    [
        ("a.py::test_x", ("a.py::test_x", "fast")),
        ("a.py::test_old[1-2]", ("a.py::test_new", "fast+slow")),
        ("a.py::test_one", ("a.py::test_new[1]", "slow")),
        ("a.py::test_gone", None),
        ("a.py::test_older", None),
        ("b.py::test_to_nowhere", None),
    ],
)
def test_a_former_test_is_traced_by_its_id_or_its_successor(
    former: str, traced: tuple[str, str] | None
) -> None:
    successors = parse(
        "# a comment\n\na.py::test_old[*] -> a.py::test_new\na.py::test_one -> a.py::test_new[1]\n"
        "b.py::test_to_nowhere -> b.py::test_ne\n"
    )
    assert trace(former, successors, TODAY) == traced


@pytest.mark.parametrize("line", ["a.py::test_old", "a -> ", " -> b"])
def test_a_line_without_both_ids_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="expected OLD -> NEW"):
        parse(line)
