"""The commands and the unit file of the hardening guide."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_USAGE
from learner.commandline import parse

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "security.md").read_text().split("## Hardening\n")[1].split("\n## ")[0]


def block(language: str, start: str) -> str:
    """The fenced block of a language that begins with this text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return next(one for one in blocks if one.startswith(start))


UNIT, RULES = block("ini", "[Service]"), block("sh", "nft ")


def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capital letters
    parser.read_string(UNIT)
    return parser["Service"]


def test_the_guide_is_short() -> None:
    assert len(GUIDE.strip().splitlines()) <= 60


def test_the_service_resumes_after_a_crash_but_not_after_a_wrong_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("learner.commandline.KeyDirectory.open", lambda path: path)
    [(_, options)] = parse(shlex.split(service()["ExecStart"])[3:])
    assert options.resume and options.keys is not None
    assert service()["Restart"] == "on-failure"
    assert service()["RestartPreventExitStatus"].split() == [str(EXIT_USAGE), str(EXIT_CONFIGURATION)]


def test_the_memory_limit_is_that_of_compose() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    (limit,) = re.findall(r"LEARNER_MEMORY:-(\d+g)", compose)
    assert service()["MemoryMax"].lower() == limit


def test_the_rules_concern_the_ports_of_the_learner() -> None:
    port = int(service()["ExecStart"].split("tcp://0.0.0.0:")[1].split()[0])
    assert set(re.findall(r"dport (\S+)", RULES)) == {f"{port}-{port + 1}"}


def test_nft_accepts_the_rules() -> None:
    nft = shutil.which("nft")
    if nft is None:
        pytest.skip("needs nft")
    script = "".join(" ".join(shlex.split(line)[1:]) + "\n" for line in RULES.splitlines())
    done = subprocess.run([nft, "-c", "-f", "-"], input=script, capture_output=True, text=True, timeout=60)
    # Only root may ask the kernel, but a wrong rule is an error of another kind.
    assert done.returncode == 0 or "Operation not permitted" in done.stderr, done.stderr


def test_systemd_accepts_the_unit_file(tmp_path: Path) -> None:
    analyse = shutil.which("systemd-analyze")
    if analyse is None:
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / "outrider.service"
    unit.write_text(
        UNIT.replace("/srv/outrider/.venv/bin/python", sys.executable).replace("User=outrider\n", "")
    )
    done = subprocess.run(
        [analyse, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert "outrider.service" not in done.stderr, done.stderr
