"""The files of deploy/ are consistent with each other, with the code and with the runbook."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from common.metrics import ACTOR_PORT, LEARNER_PORT
from learner.commandline import parse
from tests.compose.test_runbook import ELSEWHERE, HERE
from tests.support import runbook

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
Tree = dict[str, Any]


def load(path: Path) -> Tree:
    tree: Tree = yaml.safe_load(path.read_text())
    return tree


COMPOSE = load(ROOT / "docker-compose.yml")
MACHINE = load(DEPLOY / "actor-machine.yml")
STACK = load(DEPLOY / "swarm" / "stack.yml")
KUBERNETES = [
    (path.name, tree)
    for path in sorted((DEPLOY / "kubernetes" / "base").glob("*.yaml"))
    for tree in yaml.safe_load_all(path.read_text())
    if path.name != "kustomization.yaml"
]


def interpolate(text: str, **variables: str) -> str:
    """Replace Compose's `${NAME}`, `${NAME-or}`, `${NAME:-or}` and `${NAME:+then}`, also nested ones."""

    def value(match: re.Match[str]) -> str:
        name, rule, word = match["name"], match["rule"] or "", match["word"] or ""
        current = variables.get(name)
        if rule == ":+":
            return word if current else ""
        return current if current or (current is not None and not rule.startswith(":")) else word

    pattern = re.compile(r"\$\{(?P<name>\w+)(?:(?P<rule>:?[-+?])(?P<word>[^${}]*))?\}")
    while text != (text := pattern.sub(value, text)):
        pass
    return text


def command(service: Tree, **variables: str) -> list[str]:
    """Return the command of a service as a list of words."""
    words = service["command"]
    if isinstance(words, str):
        return shlex.split(interpolate(words, **variables))
    return [interpolate(word, **variables) for word in words]


def job(name: str) -> Tree:
    found: Tree = next(
        tree["spec"] for _, tree in KUBERNETES if tree["kind"] == "Job" and tree["metadata"]["name"] == name
    )
    return found


def pod(name: str) -> Tree:
    found: Tree = job(name)["template"]["spec"]
    return found


def learner_commands() -> Iterator[tuple[str, list[str]]]:
    yield "compose", command(COMPOSE["services"]["learner"])
    yield (
        "compose, every variable",
        command(
            COMPOSE["services"]["learner"],
            PRESET="smoke",
            GAME="gravitar",
            SEED="7",
            TOTAL_STEPS="300",
            ARGS="",
        ),
    )
    yield "swarm", command(STACK["services"]["learner"])
    yield "kubernetes", pod("learner")["containers"][0]["args"]


def actor_commands() -> Iterator[tuple[str, list[str]]]:
    yield "compose", command(COMPOSE["services"]["actor"])
    yield "machine", command(MACHINE["services"]["actor"], LEARNER="10.0.0.5:5555")
    yield "swarm", command(STACK["services"]["actor"])
    yield "kubernetes", pod("actor")["containers"][0]["args"]


@pytest.mark.parametrize("words", [pytest.param(words, id=name) for name, words in learner_commands()])
def test_the_learner_accepts_its_options(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert words[:3] == ["python", "-m", "learner"]
    monkeypatch.setattr("learner.commandline.KeyDirectory.open", lambda path: path)
    [(_, options)] = parse(words[3:])
    assert options.resume
    assert options.bind == "tcp://0.0.0.0:5555"
    assert options.keys is not None
    assert options.metrics_host == "0.0.0.0"  # noqa: S104  # inside a container
    assert options.run_dir.parent == Path("runs")


def test_variables_choose_the_run_and_its_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learner.commandline.KeyDirectory.open", lambda path: path)
    learner = COMPOSE["services"]["learner"]
    [(config, options)] = parse(command(learner)[3:])
    assert (config.preset, config.seed, options.run_dir.name) == ("freeway", 1, "freeway-1")
    assert (config.rollout.lanes, config.rollout.batch_lanes) == (4, 128)
    [(config, options)] = parse(
        command(learner, PRESET="smoke", GAME="gravitar", SEED="7", TOTAL_STEPS="300", ARGS="")[3:]
    )
    assert (config.preset, config.env.id, config.seed, config.total_steps) == ("smoke", "gravitar", 7, 300)
    assert options.run_dir.name == "smoke-gravitar-7"


@pytest.mark.parametrize("words", [pytest.param(words, id=name) for name, words in actor_commands()])
def test_actors_accept_their_options(words: list[str]) -> None:
    assert words[:3] == ["python", "-m", "actor"]
    given = [sys.executable, *words[1:]]
    given[given.index("--keys") + 1] = "/nonexistent/key"
    done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "/nonexistent/key" in done.stderr) == (78, True), done.stderr


def test_health_checks_test_the_port_that_the_learner_binds() -> None:
    hexadecimal = f":{5555:04X} "
    for service in (
        COMPOSE["services"]["learner"],
        COMPOSE["services"]["actor"],
        STACK["services"]["learner"],
    ):
        assert hexadecimal in service["healthcheck"]["test"][3]


def test_metrics_ports_are_those_of_the_exporters() -> None:
    assert COMPOSE["services"]["actor"]["expose"] == [str(ACTOR_PORT)]
    assert MACHINE["services"]["actor"]["expose"] == [str(ACTOR_PORT)]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert f"EXPOSE {ACTOR_PORT}\n" in dockerfile
    assert f"EXPOSE 5555 5556 {LEARNER_PORT}\n" in dockerfile
    for name, port in (("learner", LEARNER_PORT), ("actor", ACTOR_PORT)):
        ports = {p["name"]: p["containerPort"] for p in pod(name)["containers"][0]["ports"]}
        assert ports["metrics"] == port


def test_prometheus_scrapes_the_ports_of_the_exporters() -> None:
    scraped = load(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    assert f"learner:{LEARNER_PORT}" in str(scraped)
    assert f"'port': {ACTOR_PORT}" in str(scraped)


def test_every_file_names_the_same_images() -> None:
    ours = {"outrider-actor", "outrider-learner"}
    public = {COMPOSE["services"][name]["image"] for name in ("prometheus", "grafana")}
    used = {
        interpolate(service["image"]).removesuffix(":latest")
        for tree in (COMPOSE, MACHINE)
        for service in tree["services"].values()
        if "image" in service
    }
    used |= {interpolate(service["image"]) for service in STACK["services"].values()}
    used |= {
        c["image"]
        for name in ("learner", "actor")
        for c in pod(name)["containers"] + pod(name)["initContainers"]
    }
    assert used == ours | public


def test_up_in_the_foreground_shows_the_learner_and_its_keys_alone() -> None:
    shown = {name for name, service in COMPOSE["services"].items() if service.get("attach", True)}
    assert shown == {"keys", "learner"}


def test_the_published_ports_of_the_learner_are_variables() -> None:
    given = {"LEARNER_PORT": "5655", "WEIGHTS_PORT": "5656"}
    ports = [interpolate(port, **given) for port in COMPOSE["services"]["learner"]["ports"]]
    assert ports[:2] == ["127.0.0.1:5655:5555", "127.0.0.1:5656:5556"]


@pytest.mark.parametrize("tree", [COMPOSE, MACHINE, STACK], ids=["compose", "machine", "swarm"])
def test_nothing_runs_as_root_with_a_capability_or_a_writable_root(tree: Tree) -> None:
    for name, service in tree["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        if "grafana" not in service["image"]:  # it writes to its installation directory
            assert service["read_only"] is True, name
        if "outrider" in service["image"] and not (tree is MACHINE and name == "keys"):
            assert service["user"] == "10001:10001", name
        assert "container_name" not in service, name
    copier = MACHINE["services"]["keys"]
    assert (copier["network_mode"], copier["cap_add"]) == ("none", ["CHOWN", "DAC_OVERRIDE", "FOWNER"])


def test_ports_are_published_on_this_machine_only_by_default() -> None:
    for service in COMPOSE["services"].values():
        for port in service.get("ports", []):
            assert interpolate(port).startswith("127.0.0.1:")
    assert interpolate(COMPOSE["services"]["learner"]["ports"][0], PUBLISH="0.0.0.0").startswith("0.0.0.0:")  # noqa: S104
    assert not any("ports" in service for service in STACK["services"].values())


def test_a_finished_run_is_not_started_again() -> None:
    for service in (
        COMPOSE["services"]["learner"],
        COMPOSE["services"]["actor"],
        MACHINE["services"]["actor"],
    ):
        assert service["restart"].startswith("on-failure")
    for name in ("learner", "actor"):
        assert STACK["services"][name]["deploy"]["restart_policy"]["condition"] == "on-failure"
        assert pod(name)["restartPolicy"] == "Never"


def test_the_kubernetes_pods_are_restricted() -> None:
    for name in ("learner", "actor"):
        assert pod(name)["securityContext"]["runAsUser"] == 10001
        for container in pod(name)["containers"] + pod(name)["initContainers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_runbook_lists_every_variable() -> None:
    files = [ROOT / "docker-compose.yml", DEPLOY / "actor-machine.yml", DEPLOY / "swarm" / "stack.yml"]
    read = {name for file in files for name in re.findall(r"(?<!\$)\$\{(\w+)", file.read_text())}
    table = runbook.RUNBOOK.read_text().partition("\n## ")[0]
    assert read - {"LEARNER", "KEYS", "LEARNER_IMAGE", "ACTOR_IMAGE"} <= set(
        re.findall(r"`([A-Z_]+)`", table)
    )


def test_every_command_of_the_runbook_is_run_by_a_test() -> None:
    assert set(runbook.sections()) - set(ELSEWHERE) == set(HERE)


def _client(*words: str) -> str:
    """Return the output of a client command that needs neither an engine nor a cluster."""
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if "unknown" in done.stderr and "compose" in words:
        pytest.skip("docker has no compose plugin")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "a warning"
    return done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("compose", "config", "--quiet"),
        ("compose", "-f", "docker-compose.yml", "-f", "deploy/compose.gpu.yml", "config", "--quiet"),
        ("stack", "config", "--compose-file", "deploy/swarm/stack.yml"),
    ],
    ids=["compose", "gpu", "swarm"],
)
def test_the_files_fit_their_schema(words: tuple[str, ...]) -> None:
    _client("docker", *words)


def test_the_actor_machine_needs_an_address_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEARNER", "10.0.0.5:5555")
    monkeypatch.setenv("KEYS", "/m1.json")
    _client("docker", "compose", "-f", "deploy/actor-machine.yml", "config", "--quiet")


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_kustomize_builds_objects_that_fit_their_schema(overlay: str) -> None:
    built = [
        tree
        for tree in yaml.safe_load_all(_client("kubectl", "kustomize", f"deploy/kubernetes/{overlay}"))
        if tree
    ]
    learner = next(tree for tree in built if (tree["kind"], tree["metadata"]["name"]) == ("Job", "learner"))
    limits = learner["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert ("nvidia.com/gpu" in limits) == (overlay == "gpu")
    for tree in built:
        kubernetes_validate.validate(tree, "1.30", strict=True)
