"""Dashboards, rules, runbook and exported metrics are consistent."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys

import pytest
import yaml
from prometheus_client import generate_latest

from deploy.grafana.build import DASHBOARDS, DIRECTORY, file_text
from deploy.grafana.definitions.bounds import Bound, alert_bound
from deploy.grafana.frame import of_runs
from tests.ci.metrics_page import registries
from tests.support.prometheus import DEPLOY, command, selectors

RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
ALERTS = (DEPLOY / "prometheus" / "rules" / "alerts.yml").read_text()
ALERT_NAMES = re.findall(r"- alert: (\w+)", ALERTS)
ALERT_TESTS = DEPLOY / "prometheus" / "tests" / "alerts.yml"
RULES_TEXT = "\n".join(
    line for path in RULES for line in path.read_text().splitlines() if not line.lstrip().startswith("#")
)
RECORDED = re.findall(r"- record: (\S+)", RULES_TEXT)
PANELS = [panel for page in DASHBOARDS for row in page.rows for panel in row.panels]
EXPRESSIONS = [query.expr for panel in PANELS for query in panel.queries]


def exported() -> set[str]:
    return {
        sample.name for registry in registries() for family in registry.collect() for sample in family.samples
    }


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_committed_dashboards_are_those_of_the_definitions() -> None:
    """Each build gives the committed files, byte for byte, and no other file."""
    files = {path.name: path.read_text() for path in DIRECTORY.glob("*.json")}
    for _ in range(2):
        assert {f"{page.uid}.json": file_text(page) for page in DASHBOARDS} == files
    subprocess.run([sys.executable, "-m", "deploy.grafana.build"], check=True, cwd=DEPLOY.parent, timeout=60)
    assert {path.name: path.read_text() for path in DIRECTORY.glob("*.json")} == files


@pytest.mark.parametrize("page", DASHBOARDS, ids=lambda page: page.uid)
def test_the_panels_of_a_dashboard_are_valid(page: object) -> None:
    """Panels have unique ids, do not overlap, have descriptions and read one data source."""
    data = json.loads(file_text(page))  # type: ignore[arg-type]
    panels = data["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for a, b in itertools.combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
    shown = [panel for panel in panels if panel["type"] != "row"]
    assert shown[0]["title"] == "Bottleneck"
    for panel in shown:
        assert panel["description"].endswith(".")
        assert panel["targets"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${source}"}
    elsewhere = file_text(page).replace("http://127.0.0.1:", "")  # type: ignore[arg-type]
    assert "://" not in elsewhere  # links go to this machine alone


def test_no_two_panels_of_a_dashboard_have_one_title() -> None:
    """The runbook refers to panels by their titles."""
    for page in DASHBOARDS:
        titles = [panel.title for row in page.rows for panel in row.panels]
        assert len(set(titles)) == len(titles)


def test_every_expression_uses_only_what_is_exported() -> None:
    """This holds for panels, recording rules and alerts; `up` is a metric of Prometheus itself."""
    known = exported() | set(RECORDED) | {"up"}
    for expr in [*EXPRESSIONS, RULES_TEXT]:
        names = {name for name, _ in selectors(expr)}
        assert names, expr
        assert names <= known, sorted(names - known)


def test_every_exported_metric_is_read() -> None:
    """Every metric is in a panel, a rule or an alert."""
    read = {name for expr in [*EXPRESSIONS, RULES_TEXT] for name, _ in selectors(expr)}
    ours = {name for name in exported() if name.startswith("outrider_")}
    unread = {name for name in ours - read if not name.endswith(("_bucket", "_count", "_sum"))}
    assert not unread


def test_every_recorded_rule_is_read() -> None:
    """Each is read by a panel or an alert."""
    read = {name for expr in [*EXPRESSIONS, ALERTS] for name, _ in selectors(expr)}
    assert set(RECORDED) <= read


def test_every_alert_has_a_section_in_the_runbook() -> None:
    """Each alert links to its own heading under Alerts, and each heading has an alert."""
    runbook = (DEPLOY / "README.md").read_text()
    section = runbook.split("\n## Alerts\n")[1].split("\n## ")[0]
    headings = [anchor(line[4:]) for line in section.splitlines() if line.startswith("### ")]
    links = re.findall(r"runbook: deploy/README\.md#(\S+)", ALERTS)
    assert len(links) == len(ALERT_NAMES)
    assert sorted(links) == sorted(headings)


def test_the_runbook_names_panels_and_pages_that_exist() -> None:
    """Every quoted title from Dashboards on is a panel, and every link within the page has a target."""
    runbook = (DEPLOY / "README.md").read_text()
    titles = {panel.title for panel in PANELS}
    quoted = set(re.findall(r'"([A-Z][^"]+)"', runbook.split("\n## Dashboards\n")[1]))
    assert quoted
    assert quoted <= titles
    anchors = {anchor(line.lstrip("# ")) for line in runbook.splitlines() if line.startswith("#")}
    assert set(re.findall(r"\]\(#([^)]+)\)", runbook)) <= anchors


def test_every_alert_has_a_firing_and_a_silent_test_case() -> None:
    """The file for `promtool test rules` has both cases for each alert."""
    cases = ALERT_TESTS.read_text()
    quiet = re.findall(r"alertname: (\w+), exp_alerts: \[\]", cases)
    firing = re.findall(r"alertname: (\w+)\n +exp_alerts:\n", cases)
    assert set(quiet) == set(firing) == set(ALERT_NAMES)


@pytest.mark.compose_short
def test_rules_configuration_and_names_pass_promtool() -> None:
    """Promtool accepts the rules, the configuration and the metrics of both exporters."""
    promtool = command("promtool", DEPLOY)
    prometheus = DEPLOY / "prometheus"
    for arguments in (
        ["check", "rules", *map(str, RULES)],
        ["check", "config", str(prometheus / "prometheus.yml")],
        ["check", "config", str(prometheus / "learners.yml")],
        ["test", "rules", str(ALERT_TESTS)],
    ):
        done = subprocess.run([*promtool, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
    for registry in registries():
        page = generate_latest(registry)
        check = [*promtool, "check", "metrics"]
        done = subprocess.run(check, input=page.decode(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_the_example_of_an_alertmanager_handles_every_severity() -> None:
    """Each route has a receiver that exists, and each matcher names labels of the alerts."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "alertmanager.yml").read_text())
    receivers = {receiver["name"] for receiver in config["receivers"]}
    routes = [config["route"], *config["route"]["routes"]]
    assert {route["receiver"] for route in routes} == receivers
    severities = set(re.findall(r"severity: (\w+)", ALERTS))
    named = {name for route in routes for text in route.get("matchers", []) for name in text.split('"')[1::2]}
    assert named < severities == {"critical", "warning", "info"}
    inhibited = set(re.findall(r"Outrider\w+", str(config["inhibit_rules"])))
    assert inhibited <= set(ALERT_NAMES)


def test_the_bound_of_an_alert_is_the_number_in_its_expression() -> None:
    """A panel cannot have a threshold of an alert that does not exist or compares with no number."""
    assert alert_bound("OutriderStepsWasted") == Bound(0.02, above=True)
    assert alert_bound("OutriderDiskNearlyFull") == Bound(0.05, above=False)
    assert alert_bound("OutriderCheckpointOld") == Bound(1800, above=True)
    for name in ("OutriderNothing", "OutriderLearnerAbsent"):
        with pytest.raises(ValueError, match=name):
            alert_bound(name)


def test_a_panel_with_an_alert_has_the_bound_of_the_alert_as_its_threshold() -> None:
    """The file of the alerts is the only place of the number."""
    shown = {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        for page in DASHBOARDS
        for panel in json.loads(file_text(page))["panels"]
        if panel["type"] == "timeseries"
    }
    watched = [panel for panel in PANELS if panel.alert]
    assert len(watched) >= 8
    for panel in watched:
        value, above = alert_bound(panel.alert)
        colours = ("green", "red") if above else ("red", "green")
        assert [(step["color"], step["value"]) for step in shown[panel.title]] == [
            (colours[0], None), (colours[1], value)
        ]  # fmt: skip


def test_a_panel_reads_the_chosen_runs_alone() -> None:
    """Metrics of actors belong to no run, because an exporter may serve actors of several."""
    cases = {
        "sum(rate(outrider_x_total[1m]))": 'sum(rate(outrider_x_total{run=~"$run"}[1m]))',
        'outrider_x{a="b"} == 1': 'outrider_x{a="b", run=~"$run"} == 1',
        "run:outrider_x:rate1m / 2": 'run:outrider_x:rate1m{run=~"$run"} / 2',
        'process_x{job="learner"}': 'process_x{job="learner", run=~"$run"}',
        'max by (run) (process_x{job="actor"})': 'max by (run) (process_x{job="actor"})',
        "outrider_actor_x": "outrider_actor_x",
    }
    assert {expr: of_runs(expr) for expr in cases} == cases
    for expr in EXPRESSIONS:
        for name, selector in selectors(of_runs(expr)):
            of_actors = name.startswith("outrider_actor_") or 'job="actor"' in selector
            assert ('run=~"$run"' in selector) is not of_actors, expr


def test_no_panel_over_time_shows_the_first_of_a_ranking() -> None:
    """Such a panel shows other series at each moment, and more than it asks for."""
    assert not [expr for expr in EXPRESSIONS if re.search(r"\b(top|bottom)k\b", expr)]


@pytest.mark.parametrize("page", DASHBOARDS, ids=lambda page: page.uid)
def test_every_page_has_the_choice_of_runs_annotations_and_links(page: object) -> None:
    data = json.loads(file_text(page))  # type: ignore[arg-type]
    assert [variable["name"] for variable in data["templating"]["list"]] == ["source", "run"]
    assert {one["name"] for one in data["annotations"]["list"]} == {"Starts", "Checkpoints", "Alerts"}
    known = exported() | {"ALERTS", "outrider_run_info"}
    for one in data["annotations"]["list"]:
        assert set(re.findall(r"\b(?:outrider|process)_\w+(?=[{ ])|ALERTS", one["expr"])) <= known
    links = {link["title"]: link["url"] for link in data["links"]}
    assert {"Live page", "TensorBoard", "Runbook"} < links.keys()
    volumes = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text())["services"]["grafana"][
        "volumes"
    ]
    assert any(f"/usr/share/grafana{links['Runbook']}" in str(volume) for volume in volumes)
