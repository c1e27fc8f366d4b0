"""`python -m tests.ci.wheel`: builds a wheel, installs it outside the checkout and runs every console script.

The product comes from the wheel; its dependencies are those of the environment that runs this check, so that
nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.processes import free_port

ROOT = Path(__file__).parents[2]
_TIMEOUT_SECONDS = 300
_RUN = ("cartpole", "--total-steps", "2048", "--local-actors", "1", "--run-dir", "run")


class Failed(Exception):
    """A check failed; the text is one sentence."""


def call(command: Sequence[str | Path], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command without this checkout on its path."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        list(map(str, command)),
        cwd=directory,
        env=variables,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECONDS,
        check=False,
    )


def require(command: Sequence[str | Path], directory: Path) -> None:
    """Run a command that must succeed."""
    ended = call(command, directory)
    if ended.returncode:
        words = " ".join(map(str, command))
        raise Failed(f"expected {words} to end with 0, got {ended.returncode}:\n{ended.stdout}{ended.stderr}")


def tracked(*paths: str) -> list[str]:
    """The files of the checkout that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *paths]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def build(directory: Path) -> Path:
    """Build the wheel from a copy of the checkout."""
    source = directory / "source"
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    require([sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", directory, source], directory)
    return next(directory.glob("*.whl"))


def check_content(wheel: Path, packages: Sequence[str]) -> None:
    """Check that the wheel holds the files of the packages and no others."""
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = set(tracked(*packages))
    if held != wanted:
        raise Failed(f"expected the files of {', '.join(packages)}, got others: {sorted(held ^ wanted)}")


def install(wheel: Path, directory: Path) -> Path:
    """Install the wheel in an environment with the present dependencies; return its scripts' directory."""
    home = directory / "environment"
    venv.create(home, with_pip=False)
    scripts = home / "bin"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", scripts / "python", "install"]
    require([*pip, "--no-deps", "--no-index", wheel], directory)
    packages = next(home.glob("lib/python*/site-packages"))
    # Python reads no .pth files in a directory that one adds, which excludes an editable install.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return scripts


def check_script(script: Path, directory: Path) -> None:
    """Check that a script prints its help, and one sentence for an unknown flag."""
    helped = call([script, "--help"], directory)
    if helped.returncode or "usage: " not in helped.stdout or helped.stderr:
        raise Failed(f"expected {script.name} --help to end with 0 and its usage alone, got {helped}")
    wrong = call([script, "--no-such-flag"], directory)
    sentence = wrong.stderr.splitlines()
    if wrong.returncode != 2 or len(sentence) != 1 or "Traceback" in wrong.stderr or wrong.stdout:
        raise Failed(f"expected {script.name} --no-such-flag to end with 2 and one sentence, got {wrong}")


def check(directory: Path) -> None:
    """Run every check in an empty directory."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = [pattern for pattern in patterns if "*" not in pattern]
    wheel = build(directory)
    check_content(wheel, packages)
    scripts = install(wheel, directory)
    for package in packages:
        place = call([scripts / "python", "-c", f"import {package}; print({package}.__file__)"], directory)
        if not place.stdout.startswith(str(scripts.parent)):
            raise Failed(f"expected {package} from the wheel, got {place.stdout or place.stderr}")
    for name in project["project"]["scripts"]:
        check_script(scripts / name, directory)
        print(f"{name}: --help and a wrong flag")
    require([scripts / "outrider-learner", *_RUN, "--bind", f"tcp://127.0.0.1:{free_port()}"], directory)
    require([scripts / "outrider-evaluate", "run", "--episodes", "2"], directory)
    require([scripts / "outrider-plot", "run", "-o", "run.png"], directory)
    require([scripts / "outrider-table", "run"], directory)
    print(f"{wheel.name}: a run, its evaluation, its plot and its table")


def main() -> int:
    """Run every check; return the exit code."""
    with tempfile.TemporaryDirectory(prefix="outrider-wheel-") as name:
        try:
            check(Path(name))
        except Failed as failure:
            print(f"wheel: {failure}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
