"""Prometheus and its tool, from PATH or from a container, for the tests that need the real ones."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

IMAGE = "prom/prometheus:v2.53.3"
DEPLOY = Path(__file__).parents[2] / "deploy"
_METRIC = re.compile(r"\b((?:outrider|process)_\w+|up|run(?:_\w+)?:[\w:]+)(?![\w:])(\{[^}]*\})?")


def command(name: str, *directories: Path) -> list[str]:
    """The command that starts `prometheus` or `promtool`; skips the test if there is none."""
    if shutil.which(name):
        return [name]
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "image", "inspect", IMAGE], capture_output=True).returncode == 0:
        mounts = [f"--volume={path}:{path}" for path in directories]
        options = ["--rm", "--interactive", "--network=host", "--user=0", *mounts, f"--entrypoint={name}"]
        return [docker, "run", *options, IMAGE]
    pytest.skip(f"expected {name} on PATH or an engine with {IMAGE}, got neither")


def selectors(expr: str) -> list[tuple[str, str]]:
    """Every metric of an expression, with its whole selector."""
    return [(name, name + labels) for name, labels in _METRIC.findall(expr)]
