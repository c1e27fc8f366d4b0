"""deploy/monitoring.yml finds the learners of every Compose project of a machine."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
import yaml

from common.metrics import LEARNER_PORT
from tests.unit.deploy.test_deployment import COMPOSE, DEPLOY, ROOT, Tree, load


def resolved() -> Tree:
    """The project as Compose reads it, with the services that it extends."""
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = ["docker", "compose", "-f", "deploy/monitoring.yml", "config", "--format", "json"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    if "unknown" in done.stderr:
        pytest.skip("docker has no compose plugin")
    assert (done.returncode, done.stderr) == (0, "")
    tree: Tree = yaml.safe_load(done.stdout)
    return tree


def test_its_prometheus_asks_for_the_name_of_the_learners_on_the_network_that_they_share() -> None:
    tree = resolved()
    name = tree["networks"]["learners"]["name"]
    assert COMPOSE["networks"]["learners"]["name"] == name
    assert "learners" in COMPOSE["services"]["learner"]["networks"]
    assert "learners" in tree["services"]["prometheus"]["networks"]
    [job] = load(DEPLOY / "prometheus" / "learners.yml")["scrape_configs"]
    [search] = job["dns_sd_configs"]
    assert (job["job_name"], search["names"], search["port"]) == ("learner", ["learner"], LEARNER_PORT)


def test_actors_resolve_the_name_of_their_own_learner_alone() -> None:
    """They are not in the network that the learners of all projects share."""
    members = {name for name, one in COMPOSE["services"].items() if "learners" in one.get("networks", [])}
    assert members == {"learner"}


def test_its_services_are_those_of_a_single_learner() -> None:
    """Images, ports and rules are the same; only networks, the targets and the password's maker differ."""
    services = resolved()["services"]
    assert services.keys() == {"password", "prometheus", "grafana"}
    for name in ("prometheus", "grafana"):
        assert services[name]["image"] == COMPOSE["services"][name]["image"]
    mounts = {one["target"]: one["source"] for one in services["prometheus"]["volumes"]}
    assert mounts["/etc/prometheus/prometheus.yml"] == str(DEPLOY / "prometheus" / "learners.yml")
    assert mounts["/etc/prometheus"] == str(DEPLOY / "prometheus")
    assert services["password"]["network_mode"] == "none"
    rules, single = (load(DEPLOY / "prometheus" / f"{name}.yml") for name in ("learners", "prometheus"))
    assert (rules["global"], rules["rule_files"]) == (single["global"], single["rule_files"])
