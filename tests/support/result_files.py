"""Writes the figures of tests to FIGURES_DIR, for docs/reliability.md and docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.bench.machine import hardware


def keep(name: str, figures: Mapping[str, object]) -> None:
    """Print the figures; if FIGURES_DIR is set, also write them there with the commit and the machine."""
    print(f"{name}: {json.dumps(figures)}", file=sys.stderr)
    directory = os.environ.get("FIGURES_DIR")
    if directory:
        Path(directory).mkdir(parents=True, exist_ok=True)
        result = {"commit": _commit(), **hardware(), **figures}
        (Path(directory) / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")


def _commit() -> str:
    """The commit of this checkout; "unknown" without git."""
    argv = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    return done.stdout.strip() or "unknown"
