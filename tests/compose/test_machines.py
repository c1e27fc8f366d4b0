"""Several machines: actors that join by an address and a key file, and a Swarm."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.process.lifecycle import EXIT_TEMPORARY
from tests.support.container_engine import PATIENCE_SECONDS, ROOT, Service, script, shell
from tests.support.machines import Machines, machines
from tests.support.processes import holds_within
from tests.support.runbook import blocks

pytestmark = pytest.mark.compose
Make = Callable[..., Service]

_EVERYWHERE = "0.0.0.0"  # noqa: S104  # as in the runbook
_LANES = "--rollout.lanes 2 --rollout.batch-lanes"
_SWARM = {"PRESET": "smoke", "ACTORS": "4", "ARGS": f"{_LANES} 8 --total-steps 10000000"}


def here() -> str:
    """The address of the learner for other machines."""
    return f"{shell(['hostname', '-I']).stdout.split()[0]}:5555"


class Swarm:
    """The stack of deploy/swarm on several machines; its Prometheus answers queries."""

    def __init__(self, several: Machines) -> None:
        self.several, self.manager = several, "machine-1"
        self.client = several.client(self.manager)

    def runbook(self, section: str, **replacements: str) -> None:
        """Run the commands of a section of the runbook on the manager."""
        for block in blocks(section):
            text = block
            for old, new in replacements.items():
                text = text.replace(old, new)
            script(text, 300, {"DOCKER_HOST": self.several.host(self.manager), **_SWARM})

    def value(self, expression: str) -> float:
        """The value of an expression with one result; NaN otherwise."""
        found = self.client.containers.list(filters={"name": "outrider_prometheus"})
        if not found:
            return float("nan")
        url = f"http://localhost:9090/api/v1/query?query={expression}"
        answer: Any = found[0].exec_run(["wget", "-qO-", url])
        try:
            result = json.loads(answer.output)["data"]["result"]
        except ValueError:
            return float("nan")
        return float(result[0]["value"][1]) if len(result) == 1 else float("nan")

    def wait(self, expression: str, reached: Callable[[float], bool], what: str) -> float:
        """Wait until the value of an expression is as expected; returns it."""
        values = [float("nan")]

        def holds() -> bool:
            values.append(self.value(expression))
            return reached(values[-1])

        if not holds_within(holds, PATIENCE_SECONDS, between=lambda: time.sleep(2)):
            tasks = [task["Status"] for one in self.client.services.list() for task in one.tasks()]
            raise AssertionError(f"expected {what} in time, got {values[-1]}\n{str(tasks)[-3000:]}")
        return values[-1]

    def progress(self, updates: int) -> None:
        """Wait for that many more updates, and check that every step is accounted for."""
        start = self.value("outrider_run_updates")
        self.wait("outrider_run_updates", lambda now: now >= start + updates, f"{updates} more updates")
        assert self.value("outrider_learner_accounting_imbalance_steps") == 0


@pytest.mark.compose_short
def test_a_swarm_trains_scales_and_survives_the_loss_of_a_machine(images: None) -> None:
    with machines(3) as several:
        several.load("machine-1", "outrider-learner", "outrider-actor", "prom/prometheus:v2.53.3")
        for name in ("machine-2", "machine-3"):
            several.load(name, "outrider-actor")
        several.run("swarm")
        swarm = Swarm(several)
        swarm.runbook("Many machines: Swarm", **{"outrider_actor=6": "outrider_actor=6 --detach"})
        swarm.wait("outrider_run_updates", lambda now: now >= 1, "the first update")
        swarm.wait("outrider_fleet_actors", lambda now: now == 6, "six actors")
        swarm.progress(2)
        swarm.client.services.get("outrider_actor").scale(4)
        swarm.wait("outrider_fleet_actors", lambda now: now == 4, "four actors")
        several.lose("machine-3")
        swarm.wait("outrider_fleet_actors", lambda now: now < 4, "the loss of its actors")
        swarm.wait("outrider_fleet_actors", lambda now: now == 4, "four actors on two machines")
        swarm.progress(2)


def test_actors_of_two_more_machines_join_and_one_is_cut_off_for_half_a_minute(
    service: Make, tmp_path: Path
) -> None:
    """The learner runs here; actors of deploy/actor-machine.yml run on two engines."""
    home = service(2, PUBLISH=_EVERYWHERE, TOTAL_STEPS="10000000", ARGS=f"{_LANES} 12")
    home.compose("up", "--detach", "--no-build", seconds=300)
    with machines(2) as several:
        for name in ("machine-1", "machine-2"):
            several.load(name, "outrider-actor")
            home.compose("run", "--rm", "keys", "python", "-m", "common.keys", "add", name)
            key_file = tmp_path / f"{name}.json"
            give = f"python -m common.keys export {name} -o /tmp/b.json >&2; cat /tmp/b.json"
            key_file.write_text(home.compose("run", "--rm", "-T", "keys", "sh", "-c", give))
            # The engine of that machine mounts the file from its own disk.
            shell(["docker", "cp", str(key_file), f"{name}:/root/bundle.json"])
            variables = {"LEARNER": here(), "KEYS": "/root/bundle.json", "PROCS": "2"}
            far = Service(variables, ("deploy/actor-machine.yml",), several.host(name))
            far.compose("up", "--detach", "--no-build", seconds=300)
        home.wait("outrider_fleet_actors == 6", "six actors")
        home.progress(2)
        several.run("cut", "machine-2")
        time.sleep(30)
        home.wait("outrider_fleet_actors == 4", "the loss of two actors")
        several.run("heal", "machine-2")
        home.wait("outrider_fleet_actors == 6", "six actors again")
        home.progress(2)


@pytest.fixture
def key_file() -> Iterator[Path]:
    """The key file that the runbook writes; removed after the test."""
    path = ROOT / "m1.json"
    yield path
    path.unlink(missing_ok=True)


def test_a_machine_is_added_as_the_runbook_says(service: Make, key_file: Path, tmp_path: Path) -> None:
    """One key file is used by containers of another project, and then by 64 processes."""
    home = service(2, TOTAL_STEPS="10000000", ARGS=f"{_LANES} 136")
    opened, contained, plain = blocks("Add a machine")
    address = here()
    home.compose("up", "--detach", "--no-build", seconds=300)
    script(opened, 300, home.environment)
    known = {"LEARNER": address, "KEYS": str(key_file)}
    far = Service(known, ("deploy/actor-machine.yml",))
    try:
        script(contained.replace("10.0.0.5:5555", address).replace("--procs 64", "--procs 2"), 300, {})
        home.wait("outrider_fleet_actors == 4", "two more actors")
    finally:
        far.down("--volumes")
    doctor, actors = (
        line.replace("10.0.0.5:5555", address).replace("python ", f"{sys.executable} ", 1)
        for line in plain.splitlines()
    )
    assert "throughput" in script(doctor, 120, {})
    log = tmp_path / "actors.log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(actors.split(), cwd=ROOT, stdout=stderr, stderr=stderr) as processes,
    ):
        try:
            home.wait("outrider_fleet_actors == 66", "64 more actors")
            home.progress(1)
        finally:
            processes.terminate()
            assert processes.wait(90) == EXIT_TEMPORARY, log.read_text()[-3000:]
