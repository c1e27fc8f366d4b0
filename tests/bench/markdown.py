"""Formats tables of figures in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

ABSENT = "not measured"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def words(name: str) -> str:
    """The name of a figure with spaces instead of underscores."""
    return name.replace("_", " ")


def value(x: object) -> str:
    """A result as text."""
    if isinstance(x, dict):
        return ", ".join(f"{name} {value(part)}" for name, part in x.items())
    if isinstance(x, list):
        separator = "; " if any(isinstance(part, list) for part in x) else ", "
        return separator.join(map(value, x))
    if isinstance(x, (int, float)) and not isinstance(x, bool):
        return number(x)
    return ABSENT if x is None else str(x)


def number(value: float) -> str:
    """A number as text: a whole number without a fraction, another one with four digits."""
    return (
        f"{value:,.0f}"
        if float(value).is_integer()
        else f"{value:,.4g}"
        if abs(value) < 1000
        else f"{value:,.0f}"
    )
