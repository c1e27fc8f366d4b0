"""What every dashboard has around its panels: the choice of runs, annotations and links."""

from __future__ import annotations

import re
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${source}"}
_LEARNER_METRIC = re.compile(r"\b(outrider_(?!actor_)\w+|run(?:_\w+)?:[\w:]+|process_\w+)(\{[^}]*\})?")
_SELECTOR = 'run=~"$run"'


def of_runs(expr: str) -> str:
    """Return an expression that reads only the chosen runs; the metrics of actors belong to no run."""

    def select(found: re.Match[str]) -> str:
        name, labels = found[1], found[2] or ""
        if 'job="actor"' in labels:
            return found[0]
        return f"{name}{{{', '.join([part for part in (labels[1:-1], _SELECTOR) if part])}}}"

    return _LEARNER_METRIC.sub(select, expr)


VARIABLES: list[dict[str, Any]] = [
    {
        "name": "source",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
        "includeAll": False,
        "multi": False,
    },
    {
        "name": "run",
        "label": "Run",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": "label_values(outrider_run_info, run)", "refId": "run"},
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "hide": 0,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    },
]


def _annotation(
    name: str, expr: str, title: str, text: str, colour: str, enable: bool, at_value: bool
) -> dict[str, Any]:
    """Return an annotation; with `at_value` the value of the expression is its time, in milliseconds."""
    return {
        "name": name,
        "datasource": SOURCE,
        "enable": enable,
        "hide": False,
        "iconColor": colour,
        "expr": expr,
        "titleFormat": title,
        "textFormat": text,
        "useValueForTime": "on" if at_value else "off",
        "step": "15s",
    }


ANNOTATIONS = [
    _annotation(
        "Starts",
        of_runs(
            'process_start_time_seconds{job="learner"} * 1000 * on (run, instance) group_left (version)'
            " outrider_build_info"
        ),
        "The learner started",
        "{{run}}, version {{version}}",
        "blue",
        enable=True,
        at_value=True,
    ),
    _annotation(
        "Checkpoints",
        of_runs("outrider_checkpoint_last_success_timestamp_seconds * 1000"),
        "Checkpoint",
        "{{run}}",
        "green",
        enable=False,  # there is one every 5 to 60 s
        at_value=True,
    ),
    _annotation(
        "Alerts",
        'ALERTS{alertstate="firing", alertname=~"Outrider.*"}',
        "{{alertname}}",
        "{{severity}} {{run}} {{instance}}",
        "red",
        enable=True,
        at_value=False,
    ),
]


def _link(title: str, url: str, tooltip: str) -> dict[str, Any]:
    return {
        "title": title,
        "type": "link",
        "url": url,
        "tooltip": tooltip,
        "icon": "external link",
        "tags": [],
        "asDropdown": False,
        "includeVars": False,
        "keepTime": False,
        "targetBlank": True,
    }


LINKS = [
    {
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
    },
    _link("Live page", "http://127.0.0.1:9101", "The learner's page, at its default port on this machine"),
    _link("TensorBoard", "http://127.0.0.1:6006", "If the service tensorboard runs on this machine"),
    _link("Runbook", "/public/outrider/runbook.txt", "deploy/README.md: what each alert and panel means"),
]
