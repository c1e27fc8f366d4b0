"""Several engines on one host, each with its own address, as a stand-in for several machines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker import DockerClient

from tests.support import container_engine as engines
from tests.support.container_engine import BUILD_SECONDS, shell


class Machines:
    """The machines machine-1, machine-2 and so on, each with an engine."""

    def __init__(self, script: Path) -> None:
        self._script = script

    def run(self, *words: str, seconds: float = BUILD_SECONDS) -> str:
        """Run the script with `words` and return its output."""
        return shell([self._script, *words], seconds).stdout.strip()

    def address(self, name: str) -> str:
        """The network address of a machine."""
        return dict(line.split() for line in self.run("ls").splitlines())[name]

    def host(self, name: str) -> str:
        """The address of a machine's engine, for DOCKER_HOST."""
        return f"tcp://{self.address(name)}:2375"

    def client(self, name: str) -> DockerClient:
        """The engine of a machine."""
        return DockerClient(base_url=self.host(name), timeout=300)

    def load(self, name: str, *images: str) -> None:
        """Copy images from the engine of this host to that of a machine."""
        for image in images:
            tag = image if ":" in image else f"{image}:latest"  # another tag of the image may come first
            stream: Any = docker.from_env(timeout=300).images.get(tag).save(named=tag)
            self.client(name).images.load(stream)

    def lose(self, name: str) -> None:
        """Kill a machine with its engine."""
        docker.from_env().containers.get(name).kill()


@contextlib.contextmanager
def machines(count: int) -> Iterator[Machines]:
    """Start `count` machines without images, and remove them after the block."""
    scripts = engines.stand_in_scripts()
    if scripts is None:
        pytest.skip("several engines on one host need the scripts of shared/docker")
    several = Machines(scripts / "machines")
    try:
        several.run("up", str(count))
        yield several
    finally:
        several.run("down")
