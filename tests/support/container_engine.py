"""A container engine, and the service that `docker compose` runs in it, as a user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import docker
from docker import DockerClient
from docker.models.containers import Container

from deploy.machines import status
from tests.support.processes import free_port, holds_within

ROOT = Path(__file__).parents[2]
COMMAND_SECONDS = 300.0
BUILD_SECONDS = 1500.0
PATIENCE_SECONDS = 300.0  # the longest wait for the actors of a fleet, on a busy machine
_OUTPUT = 4000  # characters of a failed command's output that are shown


def stand_in_scripts() -> Path | None:
    """The scripts that start an engine and make base images without a registry; None if they are missing."""
    for place in (ROOT, ROOT.parent):
        if (place / "shared" / "docker" / "engine-up").exists():
            return place / "shared" / "docker"
    return None


def shell(
    command: Sequence[str | Path],
    seconds: float = COMMAND_SECONDS,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    text: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout and capture its output.

    Raises:
        AssertionError: the command failed and `check` is set.
    """
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        input=text,
        stdin=None if text is not None else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    output = f"{done.stdout[-_OUTPUT:]}\n{done.stderr[-_OUTPUT:]}"
    assert not check or done.returncode == 0, f"{command} gave {done.returncode}:\n{output}"
    return done


def script(text: str, seconds: float, env: Mapping[str, str]) -> str:
    """Run a shell script and return its output; the first command that fails ends it."""
    return shell(["bash", "-euo", "pipefail", "-c", text], seconds, env).stdout


def answers() -> bool:
    """Whether an engine with Compose runs on this machine."""
    if shutil.which("docker") is None:
        return False
    commands = (("docker", "version"), ("docker", "compose", "version"))
    return all(shell(command, 30, check=False).returncode == 0 for command in commands)


@contextlib.contextmanager
def engine() -> Iterator[bool]:
    """Provide an engine for the block: the running one, else a new one; yields False without either."""
    if answers():
        yield True
        return
    scripts = stand_in_scripts()
    if scripts is None or os.geteuid() != 0:
        yield False
        return
    shell([scripts / "engine-up"])
    try:
        yield True
    finally:
        shell([scripts / "engine-down"])


def build_images() -> None:
    """Build every image; without a registry, stand-ins replace the public base images."""
    scripts = stand_in_scripts()
    if scripts is not None:
        files = [word for name in ("deploy/Dockerfile", "docker-compose.yml") for word in ("--scan", name)]
        shell([scripts / "base-images", *files], BUILD_SECONDS)
    shell(["make", "images"], BUILD_SECONDS)


def free_ports() -> dict[str, str]:
    """The variables that give the published ports of a service free numbers."""
    published = ("GRAFANA", "PROMETHEUS", "TENSORBOARD", "PAGE")
    return {f"{name}_PORT": str(free_port()) for name in published}


@dataclass
class Service:
    """One Compose project; `variables` are the environment variables that a user sets in the shell."""

    variables: dict[str, str]
    files: tuple[str, ...] = ("docker-compose.yml",)
    host: str | None = None  # address of another engine
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = {
            "OUTRIDER_TAG": "latest",  # which the engines of other machines have, too
            **self.variables,
            "COMPOSE_FILE": ":".join(str(ROOT / file) for file in self.files),
        }
        if self.host is not None:
            self.environment["DOCKER_HOST"] = self.host

    def docker(self, *words: str, seconds: float = COMMAND_SECONDS, check: bool = True) -> str:
        """Run `docker ...` and return its output."""
        return shell(["docker", *words], seconds, self.environment, check).stdout.strip()

    def compose(self, *words: str, seconds: float = COMMAND_SECONDS, check: bool = True) -> str:
        """Run `docker compose ...` and return its output."""
        return self.docker("compose", *words, seconds=seconds, check=check)

    @cached_property
    def client(self) -> DockerClient:
        """The engine of the project."""
        return DockerClient(base_url=self.host) if self.host else docker.from_env()

    def containers(self, *services: str) -> list[Container]:
        """The containers of some services, or of all, in order of their number."""
        ids = self.compose("ps", "--all", "--quiet", "--no-trunc", *services).split()
        number = "com.docker.compose.container-number"
        found = [self.client.containers.get(one) for one in ids]
        return sorted(found, key=lambda container: int(container.labels[number]))

    def exits(self) -> dict[str, int]:
        """The exit code of each container that has ended, by name."""
        ended = [one for one in self.containers() if one.status == "exited"]
        return {str(one.name): one.attrs["State"]["ExitCode"] for one in ended}

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of a query to Prometheus; empty while Prometheus does not respond."""
        port = self.variables["PROMETHEUS_PORT"]
        words = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/api/v1/query?{words}", timeout=10
            ) as answer:
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return result
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return []

    def value(self, expression: str) -> float:
        """The value of an expression with one result; NaN otherwise."""
        result = self.query(expression)
        return float(result[0]["value"][1]) if len(result) == 1 else float("nan")

    def wait(self, expression: str, what: str, seconds: float = PATIENCE_SECONDS) -> float:
        """Query Prometheus until the expression has a result; return the time that this took, in seconds."""
        start = time.monotonic()
        held = holds_within(lambda: self.query(expression), seconds, between=lambda: time.sleep(1.0))
        assert held, f"expected {what} within {seconds:.0f} s\n{self.logs()}"
        return time.monotonic() - start

    def progress(self, updates: int) -> None:
        """Wait for that many more updates, and check that every step is accounted for."""
        self.wait("outrider_run_updates", "a scrape of the learner")  # there is none right after a pause
        reached = self.value("outrider_run_updates")
        self.wait(f"outrider_run_updates >= {reached + updates}", f"{updates} more updates")
        assert self.value("max_over_time(outrider_learner_accounting_imbalance_steps[10m])") == 0

    def logs(self) -> str:
        """The last log lines of all containers."""
        return self.compose("logs", "--no-color", "--tail", "15", check=False)[-_OUTPUT:]

    def down(self, *words: str) -> None:
        """Run `docker compose down`."""
        self.compose("--profile", "*", "down", "--timeout", "120", *words, check=False)


def memory_bytes(container: Container) -> int:
    """The memory of a container without reclaimable page cache."""
    sample: Any = container.stats(stream=False, one_shot=True)
    used = status.memory_bytes(sample)
    assert used is not None, f"expected {container.name} to run"
    return used
