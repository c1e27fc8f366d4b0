"""Turns the values of panels.py into dashboards that Grafana reads: `python -m deploy.grafana.build`.

The files in dashboards/ are committed, so that a container needs nothing but them; a test builds them
anew and compares.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

DIRECTORY = Path(__file__).parent / "dashboards"
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_COLUMNS = 24
_COLOURS = {  # of the parts of a stack: who waits is grey, who works is coloured
    "wait": "#5f6672",
    "credit_wait": "#5f6672",
    "train": "#73bf69",
    "env": "#73bf69",
    "policy": "#5794f2",
    "assemble": "#5794f2",
    "messages": "#8ab8ff",
    "bonus": "#b877d9",
    "encode": "#fade2a",
    "publish": "#fade2a",
    "weights": "#ff9830",
    "checkpoint": "#ff9830",
}


@dataclass(frozen=True)
class Query:
    """One expression and the name of its series; `{{label}}` stands for a label's value."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One question that a dashboard answers."""

    title: str
    about: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    height: int = 7
    kind: Literal["lines", "value", "words", "bars"] = "lines"
    stacked: bool = False
    least: float | None = None
    most: float | None = None
    logarithmic: bool = False
    usual: float | None = None  # the axis reaches at least this far
    decimals: int | None = None
    alarm: bool = False  # red unless it is 0


@dataclass(frozen=True)
class Row:
    """Panels under one heading, from left to right, wrapped where they do not fit."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """One page."""

    uid: str
    title: str
    about: str
    rows: tuple[Row, ...]


def dashboard(page: Dashboard) -> dict[str, Any]:
    """The JSON of one page."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in page.rows:
        if row.title:
            place = {"x": 0, "y": top, "w": _COLUMNS, "h": 1}
            panels.append(
                {
                    "id": len(panels) + 1,
                    "type": "row",
                    "title": row.title,
                    "collapsed": False,
                    "gridPos": place,
                    "panels": [],
                }
            )
            top += 1
        left = tallest = 0
        for panel in row.panels:
            if left + panel.width > _COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            panels.append(_panel(panel, len(panels) + 1, place))
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest
    return {
        "uid": page.uid,
        "title": page.title,
        "description": page.about,
        "tags": ["outrider"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_SOURCE_CHOICE]},
        "links": [_OTHERS],
        "panels": panels,
    }


_SOURCE_CHOICE = {
    "name": "source",
    "label": "Prometheus",
    "type": "datasource",
    "query": "prometheus",
    "hide": 0,
    "includeAll": False,
    "multi": False,
}
_OTHERS = {
    "title": "Outrider",
    "type": "dashboards",
    "tags": ["outrider"],
    "asDropdown": False,
    "includeVars": True,
    "keepTime": True,
    "icon": "external link",
    "targetBlank": False,
    "tooltip": "",
    "url": "",
}


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    now = panel.kind in ("words", "bars")
    targets = [
        {
            "refId": chr(ord("A") + i),
            "datasource": _SOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
            "instant": now,
            "range": not now,
        }
        for i, query in enumerate(panel.queries)
    ]
    unit = "sci" if panel.logarithmic else panel.unit
    defaults: dict[str, Any] = {"unit": unit, "thresholds": _thresholds(panel), "color": _colour(panel)}
    bounds = {"min": panel.least, "max": panel.most, "decimals": panel.decimals}
    defaults |= {name: value for name, value in bounds.items() if value is not None}
    if panel.kind == "lines":
        defaults["custom"] = _lines(panel)
    return {
        "id": number,
        "type": {"lines": "timeseries", "bars": "bargauge"}.get(panel.kind, "stat"),
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": place,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel)},
        "options": _options(panel),
    }


def _thresholds(panel: Panel) -> dict[str, Any]:
    edges = ((None, "red"), (0, "green"), (1, "red")) if panel.alarm else ((None, "green"),)
    return {"mode": "absolute", "steps": [{"color": colour, "value": value} for value, colour in edges]}


def _colour(panel: Panel) -> dict[str, Any]:
    if panel.alarm:
        return {"mode": "thresholds"}
    if panel.kind in ("value", "words"):
        return {"mode": "fixed", "fixedColor": "text" if panel.kind == "value" else "blue"}
    return {"mode": "palette-classic" if panel.kind == "lines" else "continuous-BlPu"}


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    if not panel.stacked:
        return []
    return [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for name, colour in _COLOURS.items()
    ]


def _lines(panel: Panel) -> dict[str, Any]:
    scale: dict[str, Any] = {"type": "log", "log": 10} if panel.logarithmic else {"type": "linear"}
    soft = {} if panel.usual is None else {"axisSoftMax": panel.usual}
    return soft | {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1 if panel.stacked else 2,
        "fillOpacity": 60 if panel.stacked else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "scaleDistribution": scale,
    }


def _options(panel: Panel) -> dict[str, Any]:
    reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    match panel.kind:
        case "lines":
            several = len(panel.queries) > 1 or "{{" in panel.queries[0].legend
            legend = {
                "showLegend": several,
                "displayMode": "list",
                "placement": "bottom",
                "calcs": [],
            }
            return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
        case "bars":
            return {
                "reduceOptions": reduce,
                "orientation": "horizontal",
                "displayMode": "basic",
                "showUnfilled": True,
                "valueMode": "color",
                "namePlacement": "auto",
                "minVizWidth": 8,
                "minVizHeight": 16,
                "sizing": "auto",
                "maxVizHeight": 300,
                "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
            }
        case _:
            return {
                "reduceOptions": reduce,
                "orientation": "auto",
                "textMode": "name" if panel.kind == "words" else "value",
                "colorMode": "value",
                "graphMode": "area" if panel.kind == "value" and not panel.alarm else "none",
                "justifyMode": "auto",
                "wideLayout": True,
                "showPercentChange": False,
                "percentChangeColorMode": "standard",
            }


def text(page: Dashboard) -> str:
    """The file of one page."""
    return json.dumps(dashboard(page), indent=2) + "\n"


def main() -> None:
    """Write every file anew."""
    from deploy.grafana.panels import DASHBOARDS

    for page in DASHBOARDS:
        (DIRECTORY / f"{page.uid}.json").write_text(text(page))


if __name__ == "__main__":
    main()
