"""Several engines on one host, each with its own address, as a stand-in for several machines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

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

    def inside(self, name: str, *words: str, seconds: float = 300) -> str:
        """Run `docker ...` on a machine and return its output."""
        return shell(["docker", "-H", self.host(name), *words], seconds).stdout.strip()

    def load(self, name: str, *images: str) -> None:
        """Copy images from the engine of this host to that of a machine."""
        shell(
            ["bash", "-c", f"docker save {' '.join(images)} | docker -H {self.host(name)} load"],
            BUILD_SECONDS,
        )


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
