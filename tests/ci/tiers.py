"""`python -m tests.ci.tiers`: shows where every test of commit b6c1e4c is today, with its tier.

It fails if pytest collects neither the test nor a successor of it. former-tests.txt has the ids of
`pytest --collect-only -q -o addopts=''` at that commit, sorted; successors.txt lists renamed tests.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_TIERS = {  # by marker; the first match counts
    "learning": "learning",
    "chaos": "chaos",
    "compose": "compose",
    "slow": "slow",
}
_DEFAULT_TIER = "fast"


def tier(markers: Iterable[str]) -> str:
    """The tier of a test with these markers."""
    held = set(markers)
    return next((name for marker, name in _TIERS.items() if marker in held), _DEFAULT_TIER)


def parse(text: str) -> dict[str, str]:
    """The successors, by the patterns of the former ids.

    Raises:
        ValueError: a line is not OLD -> NEW.
    """
    found = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            old, arrow, new = map(str.strip, line.partition(" -> "))
            if not (old and arrow and new):
                raise ValueError(f"expected OLD -> NEW, got {line!r}: write both ids on one line")
            found[old] = new
    return found


def trace(former: str, successors: Mapping[str, str], today: Mapping[str, str]) -> tuple[str, str] | None:
    """The present id and the tier of a former test; None if neither the test nor a successor exists."""
    file, _, test = former.partition("::")
    moved = f"{successors.get(file, file)}::{test}"
    if moved in today:
        return moved, today[moved]
    for pattern, new in successors.items():
        if re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), former):
            tiers = {name for one, name in today.items() if one == new or one.startswith(f"{new}[")}
            if tiers:
                return new, "+".join(sorted(tiers))
    return None


def collect() -> dict[str, str]:
    """The id and the tier of every test of today."""
    found: dict[str, str] = {}

    class Collector:
        def pytest_collection_finish(self, session: pytest.Session) -> None:
            for item in session.items:
                found[item.nodeid] = tier(marker.name for marker in item.iter_markers())

    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = pytest.main(["--collect-only", "-q", "-o", "addopts="], [Collector()])
    if code:
        raise SystemExit(f"tiers: expected to collect the tests, got an error:\n{output.getvalue()}")
    return found


def main() -> int:
    """Print a line for each former test, then the number of tests in each tier; return the exit code."""
    today, successors = collect(), parse((_HERE / "successors.txt").read_text())
    missing = []
    for former in (_HERE / "former-tests.txt").read_text().splitlines():
        traced = trace(former, successors, today)
        if traced is None:
            missing.append(former)
        else:
            print(f"{traced[1]:9} {former}" + (f" -> {traced[0]}" if traced[0] != former else ""))
    for name, count in sorted(Counter(today.values()).items()):
        print(f"tier {name}: {count} tests today")
    for former in missing:
        print(
            f"tiers: expected {former} or a successor, got neither: name one in successors.txt",
            file=sys.stderr,
        )
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
