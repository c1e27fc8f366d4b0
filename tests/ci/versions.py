"""`python -m tests.ci.versions [NAME...]`: runs the unit tests with versions other than the pinned ones.

The environment `lowest` has the lowest version of each dependency that pyproject.toml allows; `python3.13`
has that interpreter. Each environment is kept in .versions/NAME. pip uses its configured package index:
without an index of CPU builds, PyTorch installs several gigabytes of CUDA libraries.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / ".versions"
_OTHER_PYTHON = "python3.13"


def lowest(requirements: list[str]) -> str:
    """Constraints that pin each requirement to its lower bound.

    Raises:
        ValueError: a requirement has no lower bound.
    """
    lines = []
    for requirement in requirements:
        found = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]*\])?>=([\w.]+)", requirement)
        if found is None:
            raise ValueError(f"expected NAME>=VERSION, got {requirement!r}: give it a lower bound")
        lines.append(f"{found[1]}=={found[2]}\n")
    return "".join(lines)


def prepare(name: str) -> Path:
    """Create an environment and install the package in it; return its interpreter."""
    home = ENVIRONMENTS / name
    home.mkdir(parents=True, exist_ok=True)
    (ENVIRONMENTS / ".gitignore").write_text("*\n")
    constraints, interpreter = ROOT / "constraints.txt", sys.executable
    if name == "lowest":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        constraints = home / "constraints.txt"
        extras = [one for group in project["optional-dependencies"].values() for one in group]
        bounded = [one for one in extras if ">=" in one]  # the others are extras, or have upper bounds
        constraints.write_text(lowest(project["dependencies"] + bounded))
    else:
        found = shutil.which(name)
        if found is None:
            raise SystemExit(f"versions: expected {name} on PATH, got none: install it")
        interpreter = found
    subprocess.run([interpreter, "-m", "venv", home], check=True)
    python = home / "bin" / "python"
    install: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--constraint",
        constraints,
        "--editable",
        ".[dev]",
    ]
    subprocess.run(install, cwd=ROOT, check=True)
    return python


def main() -> int:
    """Run the unit tests in each environment; return the exit code of the first that fails, or 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.ci.versions", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"lowest or {_OTHER_PYTHON} (default both)")
    for name in parser.parse_args().names or ["lowest", _OTHER_PYTHON]:
        python = prepare(name)
        print(f"versions: {name}", flush=True)
        ended = subprocess.run([python, "-m", "pytest", "tests/unit", "--numprocesses", "2"], cwd=ROOT)
        if ended.returncode:
            return ended.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
