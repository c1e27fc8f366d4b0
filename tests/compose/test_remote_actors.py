"""`python -m deploy.machines` on several engines, as the runbook says, with one engine lost meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.machines.machine import actor_containers
from tests.compose.test_machines import here
from tests.support.container_engine import Service, script, shell
from tests.support.machines import Machines, machines
from tests.support.runbook import blocks

pytestmark = pytest.mark.compose
Make = Callable[..., Service]

_NAMES = {"m1": "machine-1", "m2": "machine-2"}  # of the runbook
_SSH = """#!/bin/sh
# Connects to the engine of a machine without a network login.
for word; do case "$word" in {cases} esac; done
exec docker -H "$host" system dial-stdio 2>/dev/null
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user's environment with an `ssh` that reaches the machines, and a Docker configuration of its own."""
    (tmp_path / "config.json").write_text("{}")
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DOCKER_CONFIG": str(tmp_path)}


def write_ssh(directory: Path, several: Machines) -> None:
    cases = " ".join(f"{name}) host={several.host(machine)};;" for name, machine in _NAMES.items())
    (directory / "ssh").write_text(_SSH.format(cases=cases))
    (directory / "ssh").chmod(0o755)


def command(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return shell([sys.executable, "-m", "deploy.machines", *words], 300, environment, check=False)


def states(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The line of each machine in the table of `status`."""
    return {line.split()[0]: line for line in done.stdout.splitlines()[1:]}


def test_actors_of_three_engines_and_the_loss_of_one(
    service: Make, environment: dict[str, str], tmp_path: Path
) -> None:
    started, others = blocks("More machines")
    _, add = started.splitlines()
    _, *later = others.splitlines()
    home = service(1, PUBLISH="0.0.0.0", TOTAL_STEPS="10000000")  # noqa: S104  # as in the runbook
    home.compose("up", "--detach", "--no-build", seconds=300)

    def typed(line: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        text = line.replace("10.0.0.5:5555", here()).replace("python ", f"{sys.executable} ", 1)
        done = shell(["bash", "-c", text], 300, environment, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    with machines(3) as several:
        write_ssh(tmp_path, several)
        third = several.host("machine-3")
        script(f"docker context create far --docker host={third}", 60, environment)
        typed(f"{add} --procs 1")
        typed(f"{add} --procs 1".replace("@m1", "@m2"))
        assert command(environment, "add", "far", "--learner", here(), "--procs", "1").returncode == 0
        home.wait("outrider_fleet_actors == 4", "an actor of each machine")
        home.progress(1)
        environment["OUTRIDER_ENGINES"] = "ssh://ops@m1 ssh://ops@m2 far"
        status, scale, upgrade, remove = later
        assert set(states(typed(status))) == {"m1", "m2", "far"}

        several.lose("machine-3")
        shown = typed(status, code=75)
        assert "unreachable" in states(shown)["far"]
        assert not any("unreachable" in states(shown)[name] for name in ("m1", "m2"))
        assert shown.stderr.count("\n") == 1, shown.stderr
        typed(scale)
        home.wait("outrider_fleet_actors == 4", "two actors of m1, one of m2, one here")
        environment["OUTRIDER_ENGINES"] = "ssh://ops@m1 ssh://ops@m2"
        assert typed(upgrade).stdout == "m1: nothing to do\nm2: nothing to do\n"
        assert "m2: actors left" in typed(remove).stdout
        home.wait("outrider_fleet_actors == 3", "the actors of m2 have left")
        home.progress(1)
        assert actor_containers(several.client("machine-2")) == []
        keys = home.compose("run", "--rm", "-T", "keys", "python", "-m", "common.keys", "list")
        assert {line.split()[0] for line in keys.splitlines()} == {"fleet", "m1", "far"}

        home.compose("run", "--rm", "-T", "keys", "python", "-m", "common.keys", "revoke", "far")
        home.compose("run", "--rm", "-T", "keys", "python", "-m", "common.keys", "revoke", "m1")
        home.wait("outrider_fleet_actors == 1", "the end of the sessions of m1")
        refused = command(environment, "scale", "ssh://ops@m1", "--procs", "1")
        assert (refused.returncode, "the key m1 of these actors is revoked" in refused.stderr) == (78, True)
