"""Every panel, rule and alert has data, with a real run and a Prometheus with the committed rules."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.build import DASHBOARDS
from tests.support.processes import PATIENCE_SECONDS, Command, Run, free_port, holds_within, wait_until
from tests.support.prometheus import DEPLOY, command, selectors

pytestmark = pytest.mark.integration

_RULES = DEPLOY / "prometheus" / "rules"
_SMALL = (
    *("mountain-car-sparse", "--total-steps", "10000000", "--rnd.warmup-steps", "512"),
    *("--rollout.steps", "64", "--rollout.lanes", "4", "--rollout.batch-lanes", "8"),
)
_RATE_INTERVAL = "20s"
_WITH_KEYS = {"outrider_auth_refused_total"}  # only a learner with keys has this metric


def exporter(command: Command) -> str:
    """The address at which a process serves its metrics."""
    rows = [json.loads(row) for row in command.err.read_text().splitlines() if "metrics_served" in row]
    return f"127.0.0.1:{rows[0]['port']}" if rows else ""


@contextlib.contextmanager
def prometheus(directory: Path, learner: str, actors: list[str]) -> Iterator[str]:
    """Run Prometheus with the committed rules, short intervals and these targets; yields its address."""
    committed = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    assert committed.count("learner:9101") == 1
    port = free_port()
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(_RULES / "*.yml")],
        "scrape_configs": [
            {"job_name": "learner", "static_configs": [{"targets": [learner]}]},
            {"job_name": "actor", "static_configs": [{"targets": actors}]},
        ],
    }
    (directory / "prometheus.yml").write_text(json.dumps(config))  # JSON is valid YAML
    arguments = (
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command("prometheus", DEPLOY, directory), *arguments], stderr=log)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def request(address: str, path: str, **values: str) -> dict[str, Any]:
    """The data of a response of the HTTP API."""
    query = urllib.parse.urlencode(values)
    with urllib.request.urlopen(f"http://{address}/api/v1/{path}?{query}", timeout=10) as page:
        response = json.load(page)
    assert response["status"] == "success", response
    return dict(response["data"])


def has_data(address: str, expr: str) -> bool:
    return bool(request(address, "query", query=expr.replace("$__rate_interval", _RATE_INTERVAL))["result"])


@pytest.mark.compose_short
def test_every_panel_rule_and_alert_has_data_on_a_real_run(tmp_path: Path) -> None:
    """An alert that does not fire has no result, so its selectors are queried instead."""
    command("prometheus", DEPLOY, tmp_path)  # skips before anything starts
    run = Run(tmp_path, free_port(), _SMALL)
    with contextlib.ExitStack() as stack:
        learner = stack.enter_context(run.learner())
        address = f"127.0.0.1:{run.port}"
        actors = [Command.start(tmp_path, f"actor{i}", "actor", "--learner", address) for i in range(2)]
        for actor in actors:
            stack.callback(actor.end)
        wait_until(lambda: all(map(exporter, (learner, *actors))), "three exporters")
        server = stack.enter_context(prometheus(tmp_path, exporter(learner), [*map(exporter, actors)]))
        wait_until(lambda: run.metric("outrider_run_episodes", learner) > 0, "a finished game")
        panels = [panel for page in DASHBOARDS for row in page.rows for panel in row.panels]
        exprs = [query.expr for panel in panels for query in panel.queries]
        rules = [rule for group in request(server, "rules")["groups"] for rule in group["rules"]]
        recorded = [rule["query"] for rule in rules if rule["type"] == "recording"]
        alerts = [rule["query"] for rule in rules if rule["type"] == "alerting"]
        named = [pair for query in alerts for pair in selectors(query)]
        parts = sorted({selector for name, selector in named if name not in _WITH_KEYS})
        files = [yaml.safe_load(file.read_text()) for file in (DEPLOY / "prometheus" / "rules").iterdir()]
        wanted = [rule for file in files for group in file["groups"] for rule in group["rules"]]
        assert len(recorded) + len(alerts) == len(wanted)
        empty = [*exprs, *recorded, *parts]

        def all_have_data() -> bool:
            empty[:] = [expr for expr in empty if not has_data(server, expr)]
            return not empty

        assert holds_within(all_have_data, PATIENCE_SECONDS, between=lambda: time.sleep(1.0)), empty
        for query in alerts:
            request(server, "query", query=query)
        assert all(rule["health"] == "ok" for rule in rules), [rule.get("lastError") for rule in rules]
        firing = [alert for alert in request(server, "alerts")["alerts"] if alert["state"] == "firing"]
        assert not firing
