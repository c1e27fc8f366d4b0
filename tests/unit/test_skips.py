"""A skipped test is a failure in CI unless the list names it with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ci.skips import ALLOWED, complaint

ROOT = Path(__file__).parents[2]
SKIPS = """
import pytest

def test_passes():
    pass

def test_skips():
    pytest.skip("no browser here")

@pytest.mark.skip(reason="not now")
def test_is_marked():
    pass

@pytest.mark.xfail(reason="a known defect")
def test_fails_as_expected():
    assert False
"""


@pytest.mark.parametrize(
    ("ci", "counts"),
    [("true", "1 failed, 1 passed, 1 xfailed, 1 error"), ("", "1 passed, 2 skipped, 1 xfailed")],
)
@pytest.mark.parametrize("workers", [[], ["--numprocesses", "1"]], ids=["alone", "xdist"])
def test_an_unlisted_skip_fails_in_ci_alone(ci: str, counts: str, workers: list[str], tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(SKIPS)
    (tmp_path / "pytest.ini").touch()
    plugin = ["-p", "tests.ci.skips", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugin, *workers, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"CI": ci},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert counts in ended.stdout, ended.stdout + ended.stderr
    assert ended.returncode == (1 if ci else 0)
    assert ("test_skips to run, got a skip (Skipped: no browser here)" in ended.stdout) == bool(ci)


def test_a_module_that_skips_itself_fails_in_ci(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    (tmp_path / "pytest.ini").touch()
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.ci.skips", "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"CI": "true"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2 and "got a skip" in ended.stdout, ended.stdout


def test_a_listed_skip_is_none_of_these_and_every_entry_has_a_reason() -> None:
    assert complaint("tests/compose/test_service.py::test_a_thing", "no engine") is None
    assert complaint("tests/unit/test_source.py::test_a_thing", "no engine") is not None
    assert all(reason.strip() for reason in ALLOWED.values())
