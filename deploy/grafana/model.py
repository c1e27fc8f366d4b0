"""The data that defines a dashboard: rows of panels, each with its queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Query:
    """A PromQL expression and the legend of its series; `{{label}}` stands for the value of a label."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """A panel; its description tells how to read it."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    height: int = 7
    # "values" shows names and values of the series, "label" only the names, "runs" one curve for each run.
    kind: Literal["lines", "value", "values", "label", "bars", "runs"] = "lines"
    stacked: bool = False
    minimum: float | None = None
    maximum: float | None = None
    soft_maximum: float | None = None  # the axis reaches at least this far
    logarithmic: bool = False
    decimals: int | None = None
    red_unless_zero: bool = False
    alert: str = ""  # the alert whose bound the panel shows as a threshold
    series_titles: Mapping[str, str] = field(default_factory=dict)  # shown in place of a series' name


@dataclass(frozen=True)
class Row:
    """Panels under one heading, from left to right; they continue below where they do not fit."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """One page of Grafana; `uid` is also the name of its file."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
