"""The bounds of the alerts, for the thresholds of the panels: the file of the alerts is their only source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_ALERTS = Path(__file__).parents[2] / "prometheus" / "rules" / "alerts.yml"


class Bound(NamedTuple):
    """The value beyond which an alert fires."""

    value: float
    above: bool  # whether it fires above the value, or below it


def alert_bound(alert: str) -> Bound:
    """Return the first bound in the expression of an alert.

    Raises:
        ValueError: there is no such alert, or its expression compares with no number.
    """
    found = re.search(
        rf"- alert: {alert}\n.*?expr:.*?(==|!=|<|>) (\d+(?:\.\d+)?)$",
        _ALERTS.read_text(),
        re.DOTALL | re.MULTILINE,
    )
    if found is None or "- alert:" in found[0][9:]:
        raise ValueError(f"expected the name of an alert with a bound, got {alert}")
    return Bound(float(found[2]), found[1] != "<")
