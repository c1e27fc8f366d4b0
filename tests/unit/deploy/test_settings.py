"""`python3 -m deploy.settings` writes the settings that every `docker compose` of a checkout reads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import common
from deploy.settings import limits, main, merged

ROOT = Path(__file__).parents[3]


def read(file: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in file.read_text().splitlines() if "=" in line)
    return {name: value.strip("'") for name, _, value in pairs}


def test_the_images_are_tagged_with_version_and_commit(tmp_path: Path) -> None:
    assert main([], tmp_path / ".env") == 0
    written = read(tmp_path / ".env")
    assert written.keys() == {"VERSION", "COMMIT", "OUTRIDER_TAG"}
    assert written["OUTRIDER_TAG"] == f"{common.__version__}-{written['COMMIT']}"
    assert re.fullmatch(r"[\w.-]{1,128}", written["OUTRIDER_TAG"]), "a tag of an image"


def test_a_later_call_keeps_the_settings_of_an_earlier_one_and_other_lines(tmp_path: Path) -> None:
    """An upgrade keeps the GPU and the published address."""
    file = tmp_path / ".env"
    file.write_text("# mine\nPRESET=pong\nPUBLISH=10.0.0.1\n\n")
    for words in (["--gpu"], ["--publish", "10.0.0.2"], ["--port", "5655"], []):
        main(words, file)
    assert file.read_text().startswith("# mine\nPRESET=pong\nPUBLISH=10.0.0.2\n\n")
    written = read(file)
    assert written["COMPOSE_FILE"] == "docker-compose.yml:deploy/compose.gpu.yml"
    assert (written["LEARNER_PORT"], written["WEIGHTS_PORT"]) == ("5655", "5656")
    main(["--cpu"], file)
    assert read(file) == written | {"COMPOSE_FILE": "docker-compose.yml"}
    main(["--tag", "0.0.9-abc1234"], file)
    assert read(file)["OUTRIDER_TAG"] == "0.0.9-abc1234"


def test_a_setting_that_is_written_twice_is_replaced_once() -> None:
    assert merged("A=1\nB=2\nA=3\n", {"A": "x y"}) == "A='x y'\nB=2\n"
    assert merged("", {"A": "1"}) == "A=1\n"


def test_the_limits_of_a_container_follow_its_number_of_actors() -> None:
    """The engine refuses a container more cores than the machine has."""
    assert limits(64, 8) == {"PROCS": "64", "PROCS_CPUS": "8", "PROCS_MEMORY": "16896m", "PROCS_PIDS": "1088"}
    machine = yaml.safe_load((ROOT / "deploy" / "actor-machine.yml").read_text())["services"]["actor"]
    limit = machine["deploy"]["resources"]["limits"]
    defaults = {name: re.fullmatch(r"\$\{PROCS_\w+:-(\w+)\}", limit[name])[1] for name in ("memory", "pids")}  # type: ignore[index]
    four = limits(4, 4)
    assert defaults == {"memory": four["PROCS_MEMORY"], "pids": four["PROCS_PIDS"]}
    assert "${PROCS:-4}" in machine["command"]


def test_a_machine_of_actors_needs_address_and_key_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "m 1.json"
    key.write_text("{}")
    main(["--learner", "10.0.0.5:5555", "--keys", str(key), "--procs", "3"], tmp_path / ".env")
    written = read(tmp_path / ".env")
    assert (written["COMPOSE_FILE"], written["KEYS"]) == ("deploy/actor-machine.yml", str(key.resolve()))
    assert written.items() >= limits(3, int(written["PROCS_CPUS"])).items()
    for words in (
        ["--learner", "10.0.0.5:5555"],
        ["--keys", str(key)],
        ["--learner", "10.0.0.5:5555", "--keys", str(tmp_path / "missing")],
        ["--procs", "3"],
        ["--gpu", "--cpu"],
        ["--port", "65535"],
        ["--publish", "learner.example"],
    ):
        with pytest.raises(SystemExit, match="2"):
            main(words, tmp_path / "unused")
    assert not (tmp_path / "unused").exists()


def test_it_runs_without_packages(tmp_path: Path) -> None:
    """A host with Docker and Python has no virtual environment."""
    for name in ("deploy", "common"):
        (tmp_path / name).mkdir()
        shutil.copy(ROOT / name / "__init__.py", tmp_path / name)
    shutil.copy(ROOT / "deploy" / "settings.py", tmp_path / "deploy")
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        "import sys; sys.path.insert(0, '.'); import runpy; "
        + ("sys.argv = ['settings', '--gpu']; runpy.run_module('deploy.settings', run_name='__main__')"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / ".env")["OUTRIDER_TAG"] == f"{common.__version__}-unknown"


@pytest.mark.parametrize(
    ("words", "image"),
    [
        ([], "outrider-learner:1.2-abc"),
        (["--gpu"], "outrider-learner-cuda:1.2-abc"),
        (["--learner", "10.0.0.5:5555", "--keys", "key.json"], "outrider-actor:1.2-abc"),
    ],
    ids=["cpu", "gpu", "machine"],
)
def test_compose_reads_the_settings(
    words: list[str], image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file of the service reads them from the `.env` of the checkout."""
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key.json").write_text("{}")
    for given in (words, ["--publish", "10.0.0.7"], ["--tag", "1.2-abc"]):
        main(given, tmp_path / ".env")
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = ["docker", "compose", "config", "--format", "json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    if "unknown" in done.stderr:
        pytest.skip("docker has no compose plugin")
    assert (done.returncode, done.stderr) == (0, "")
    services = yaml.safe_load(done.stdout)["services"]
    service = services["actor" if "learner" not in services else "learner"]
    assert service["image"] == image
    if "learner" in services:
        assert {port["host_ip"] for port in service["ports"] if port["target"] != 9101} == {"10.0.0.7"}


def test_every_file_of_a_choice_exists(tmp_path: Path) -> None:
    for option in ("--gpu", "--cpu"):
        main([option], tmp_path / ".env")
        assert all((ROOT / file).is_file() for file in read(tmp_path / ".env")["COMPOSE_FILE"].split(":"))
