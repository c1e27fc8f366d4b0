"""`python -m deploy.grafana.build`: writes the dashboards that Grafana reads, from definitions/.

The JSON files in dashboards/ are committed, so that Grafana's container needs no Python. A test builds them
again and compares.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deploy.grafana.definitions import exploration, fleet, learner, training, wire
from deploy.grafana.definitions.bounds import alert_bound
from deploy.grafana.frame import ANNOTATIONS, LINKS, SOURCE, VARIABLES, of_runs
from deploy.grafana.model import Dashboard, Panel

DASHBOARDS = (
    training.DASHBOARD,
    fleet.DASHBOARD,
    learner.DASHBOARD,
    wire.DASHBOARD,
    exploration.DASHBOARD,
)
DIRECTORY = Path(__file__).parent / "dashboards"
_COLUMNS = 24
_COLOURS = {  # by phase, in stacked panels: grey for waiting, other colours for work
    "wait": "#5f6672",
    "core_wait": "#f2495c",
    "load": "#8e8e8e",
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


def dashboard(page: Dashboard) -> dict[str, Any]:
    """Return a dashboard in the structure that Grafana reads."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in page.rows:
        if row.title:
            position = {"x": 0, "y": top, "w": _COLUMNS, "h": 1}
            panels.append(
                {
                    "id": len(panels) + 1,
                    "type": "row",
                    "title": row.title,
                    "collapsed": False,
                    "gridPos": position,
                    "panels": [],
                }
            )
            top += 1
        left = row_height = 0
        for panel in row.panels:
            if left + panel.width > _COLUMNS:
                top, left, row_height = top + row_height, 0, 0
            position = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            panels.append(_panel(panel, len(panels) + 1, position))
            left, row_height = left + panel.width, max(row_height, panel.height)
        top += row_height
    return {
        "uid": page.uid,
        "title": page.title,
        "description": page.description,
        "tags": ["outrider"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": VARIABLES},
        "annotations": {"list": ANNOTATIONS},
        "links": LINKS,
        "panels": panels,
    }


def _panel(panel: Panel, number: int, position: dict[str, int]) -> dict[str, Any]:
    instant = panel.kind in ("label", "bars")
    targets = [
        {
            "refId": chr(ord("A") + i),
            "datasource": SOURCE,
            "expr": of_runs(query.expr),
            "legendFormat": query.legend,
            "instant": instant,
            "range": not instant,
        }
        | ({"format": "table"} if panel.kind == "runs" else {})
        for i, query in enumerate(panel.queries)
    ]
    unit = "sci" if panel.logarithmic else panel.unit
    defaults: dict[str, Any] = {"unit": unit, "thresholds": _thresholds(panel), "color": _colour(panel)}
    bounds = {"min": panel.minimum, "max": panel.maximum, "decimals": panel.decimals}
    defaults |= {name: value for name, value in bounds.items() if value is not None}
    if panel.kind == "lines":
        defaults["custom"] = _lines(panel)
    if panel.kind == "runs":
        defaults["custom"] = {"show": "lines", "lineWidth": 2, "fillOpacity": 8, "axisPlacement": "auto"}
    return {
        "id": number,
        "type": {"lines": "timeseries", "bars": "bargauge", "runs": "xychart"}.get(panel.kind, "stat"),
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": position,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel)},
        "options": _options(panel),
        "transformations": _one_frame_per_run(panel) if panel.kind == "runs" else [],
    }


def _one_frame_per_run(panel: Panel) -> list[dict[str, Any]]:
    """Return the transformations that join the queries by time and run, and part the rows by run."""
    names = {f"Value #{chr(ord('A') + i)}": query.legend for i, query in enumerate(panel.queries)}
    return [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"renameByName": names}},
        {
            "id": "partitionByValues",
            "options": {"fields": ["run"], "keepFields": False, "naming": {"asLabels": False}},
        },
    ]


def _thresholds(panel: Panel) -> dict[str, Any]:
    edges: tuple[tuple[float | None, str], ...] = ((None, "green"),)
    if panel.red_unless_zero:
        edges = ((None, "red"), (0, "green"), (1, "red"))
    if panel.alert:
        bound = alert_bound(panel.alert)
        below, beyond = ("green", "red") if bound.above else ("red", "green")
        edges = ((None, below), (bound.value, beyond))
    return {"mode": "absolute", "steps": [{"color": colour, "value": value} for value, colour in edges]}


def _colour(panel: Panel) -> dict[str, Any]:
    if panel.red_unless_zero:
        return {"mode": "thresholds"}
    if panel.kind in ("value", "values", "label"):
        return {"mode": "fixed", "fixedColor": "blue" if panel.kind == "label" else "text"}
    return {"mode": "continuous-BlPu" if panel.kind == "bars" else "palette-classic"}


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    titles = [_override(name, "displayName", title) for name, title in panel.series_titles.items()]
    if not panel.stacked:
        return titles
    colours = [
        _override(name, "color", {"mode": "fixed", "fixedColor": colour}) for name, colour in _COLOURS.items()
    ]
    return titles + colours


def _override(series: str, setting: str, value: object) -> dict[str, Any]:
    return {
        "matcher": {"id": "byName", "options": series},
        "properties": [{"id": setting, "value": value}],
    }


def _lines(panel: Panel) -> dict[str, Any]:
    scale: dict[str, Any] = {"type": "log", "log": 10} if panel.logarithmic else {"type": "linear"}
    soft = {} if panel.soft_maximum is None else {"axisSoftMax": panel.soft_maximum}
    return soft | {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1 if panel.stacked else 2,
        "fillOpacity": 60 if panel.stacked else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "scaleDistribution": scale,
        "thresholdsStyle": {"mode": "dashed" if panel.alert else "off"},
    }


def _options(panel: Panel) -> dict[str, Any]:
    reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    match panel.kind:
        case "lines":
            has_several_series = len(panel.queries) > 1 or "{{" in panel.queries[0].legend
            legend = {
                "showLegend": has_several_series,
                "displayMode": "list",
                "placement": "bottom",
                "calcs": [],
            }
            return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
        case "runs":
            x, y = (query.legend for query in panel.queries)
            return {
                "mapping": "auto",
                "series": [
                    {
                        "x": {"matcher": {"id": "byName", "options": x}},
                        "y": {"matcher": {"id": "byName", "options": y}},
                    }
                ],
                "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
                "tooltip": {"mode": "single", "sort": "none"},
            }
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
                "textMode": {"label": "name", "values": "value_and_name"}.get(panel.kind, "value"),
                "colorMode": "value",
                "graphMode": "area" if panel.kind == "value" and not panel.red_unless_zero else "none",
                "justifyMode": "auto",
                "wideLayout": True,
                "showPercentChange": False,
                "percentChangeColorMode": "standard",
            }


def file_text(page: Dashboard) -> str:
    """Return the text of a dashboard's file."""
    return json.dumps(dashboard(page), indent=2) + "\n"


def main() -> None:
    """Write every dashboard's file."""
    for page in DASHBOARDS:
        (DIRECTORY / f"{page.uid}.json").write_text(file_text(page))


if __name__ == "__main__":
    main()
