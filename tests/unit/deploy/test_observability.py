"""Dashboards, rules and runbook fit together, and fit what the code exports."""

from __future__ import annotations

import functools
import itertools
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from actor.metrics import FleetCollector
from common.config import Config
from deploy.grafana.build import DIRECTORY, text
from deploy.grafana.panels import DASHBOARDS
from learner.monitoring.metrics import LearnerCollector
from learner.server.status import ServerStatus, SessionStatus
from learner.training.episodes import EpisodeTracker
from learner.training.ppo import UpdateReport
from learner.training.status import TrainerStatus
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


@functools.cache
def registries() -> tuple[CollectorRegistry, CollectorRegistry]:
    """The learner's and an actor's, of a run in which everything has happened."""
    episodes = EpisodeTracker(count=1, best=1.0)
    episodes.recent.append(1.0)
    episodes.lengths.append(9)
    progress = TrainerStatus(
        version=3, report=UpdateReport(defaultdict(float), 1e-4), lags=Counter({0: 3}), checkpoint_at=1.0
    )
    seated = SessionStatus(0, "host", 0, 128, plays=True, silent_seconds=0.1)
    view = ServerStatus(actors=1, fleet=(seated,), chunk_seconds=0.5, actor_phases={"env": 1.0})
    view.events.update(join=1)
    view.messages.update(chunk=1)
    view.wire_errors.update(frames=0)
    view.auth_refused.update(unknown_key=1)
    learner = LearnerCollector(
        lambda: view, lambda: progress, episodes, Config(), 0, lambda: {"network": 0.1}
    ).registry()
    return learner, FleetCollector().registry()


def exported() -> set[str]:
    return {
        sample.name for registry in registries() for family in registry.collect() for sample in family.samples
    }


def anchor(heading: str) -> str:
    """As GitHub makes them."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_committed_dashboards_are_those_of_the_values() -> None:
    """Built anew, twice, they are the files to the last byte, and there are no others."""
    files = {path.name: path.read_text() for path in DIRECTORY.glob("*.json")}
    for _ in range(2):
        assert {f"{page.uid}.json": text(page) for page in DASHBOARDS} == files
    subprocess.run([sys.executable, "-m", "deploy.grafana.build"], check=True, cwd=DEPLOY.parent, timeout=60)
    assert {path.name: path.read_text() for path in DIRECTORY.glob("*.json")} == files


@pytest.mark.parametrize("page", DASHBOARDS, ids=lambda page: page.uid)
def test_a_dashboard_is_whole(page: object) -> None:
    """Panels have ids of their own and do not overlap, say how to be read, and come from one source."""
    data = json.loads(text(page))  # type: ignore[arg-type]
    panels = data["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for a, b in itertools.combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
    shown = [panel for panel in panels if panel["type"] != "row"]
    assert shown[0]["title"] == "What holds the run back"
    for panel in shown:
        assert panel["description"].endswith(".")
        assert panel["targets"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${source}"}
    assert "://" not in text(page)  # type: ignore[arg-type]


def test_no_two_panels_of_a_dashboard_have_one_title() -> None:
    """People speak of panels by their titles, and so does the runbook."""
    for page in DASHBOARDS:
        titles = [panel.title for row in page.rows for panel in row.panels]
        assert len(set(titles)) == len(titles)


def test_every_expression_uses_only_what_is_exported() -> None:
    """Panels, recording rules and alerts alike; `up` is Prometheus's own."""
    known = exported() | set(RECORDED) | {"up"}
    for expr in [*EXPRESSIONS, RULES_TEXT]:
        names = {name for name, _ in selectors(expr)}
        assert names, expr
        assert names <= known, sorted(names - known)


def test_everything_exported_has_a_reader() -> None:
    """A metric that is on no panel, in no rule and in no alert is not worth its bytes."""
    read = {name for expr in [*EXPRESSIONS, RULES_TEXT] for name, _ in selectors(expr)}
    ours = {name for name in exported() if name.startswith("outrider_")}
    unread = {name for name in ours - read if not name.endswith(("_bucket", "_count", "_sum"))}
    assert not unread


def test_every_recorded_rule_is_read() -> None:
    """By a panel or an alert."""
    read = {name for expr in [*EXPRESSIONS, ALERTS] for name, _ in selectors(expr)}
    assert set(RECORDED) <= read


def test_every_alert_has_a_section_in_the_runbook() -> None:
    """Its link leads to a heading under Alerts, one heading for each, and none is left over."""
    runbook = (DEPLOY / "README.md").read_text()
    section = runbook.split("\n## Alerts\n")[1].split("\n## ")[0]
    headings = [anchor(line[4:]) for line in section.splitlines() if line.startswith("### ")]
    links = re.findall(r"runbook: deploy/README\.md#(\S+)", ALERTS)
    assert len(links) == len(ALERT_NAMES)
    assert sorted(links) == sorted(headings)


def test_the_runbook_names_panels_and_pages_that_exist() -> None:
    """What it quotes from Dashboards on is a panel; whatever links within the page leads somewhere."""
    runbook = (DEPLOY / "README.md").read_text()
    titles = {panel.title for panel in PANELS}
    quoted = set(re.findall(r'"([A-Z][^"]+)"', runbook.split("\n## Dashboards\n")[1]))
    assert quoted
    assert quoted <= titles
    anchors = {anchor(line.lstrip("# ")) for line in runbook.splitlines() if line.startswith("#")}
    assert set(re.findall(r"\]\(#([^)]+)\)", runbook)) <= anchors


def test_every_alert_is_tested_as_it_fires_and_as_it_must_not() -> None:
    """In the file for `promtool test rules`."""
    cases = ALERT_TESTS.read_text()
    quiet = re.findall(r"alertname: (\w+), exp_alerts: \[\]", cases)
    firing = re.findall(r"alertname: (\w+)\n +exp_alerts:\n", cases)
    assert set(quiet) == set(firing) == set(ALERT_NAMES)


@pytest.mark.compose_short
def test_rules_configuration_and_names_pass_promtool() -> None:
    """Its checks of rules, of the configuration, and of what both exporters serve."""
    promtool = command("promtool", DEPLOY)
    prometheus = DEPLOY / "prometheus"
    for arguments in (
        ["check", "rules", *map(str, RULES)],
        ["check", "config", str(prometheus / "prometheus.yml")],
        ["test", "rules", str(ALERT_TESTS)],
    ):
        done = subprocess.run([*promtool, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
    for registry in registries():
        page = generate_latest(registry)
        check = [*promtool, "check", "metrics"]
        done = subprocess.run(check, input=page.decode(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
