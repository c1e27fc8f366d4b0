"""A skipped test is a failure in CI, unless the list names it with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.ci.skips import ALLOWED, failure

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


def run(directory: Path, ci: str, *options: str) -> tuple[int, str]:
    """Exit code and output of pytest over these tests and a module that skips itself."""
    (directory / "test_some.py").write_text(SKIPS)
    (directory / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    (directory / "pytest.ini").touch()
    plugin = ("-p", "tests.ci.skips", "-p", "no:cacheprovider", "--rootdir", str(directory))
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugin, *options, str(directory)],
        cwd=ROOT,
        env=os.environ | {"CI": ci},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return ended.returncode, ended.stdout


def test_an_unlisted_skip_of_a_test_or_a_module_fails_in_ci(tmp_path: Path) -> None:
    code, output = run(tmp_path, "true", "--continue-on-collection-errors", "--numprocesses", "1")
    assert code == 1 and "1 failed, 1 passed, 1 xfailed, 2 errors" in output, output
    assert "test_skips to run, got a skip (Skipped: no browser here)" in output


def test_a_skip_elsewhere_is_a_skip(tmp_path: Path) -> None:
    code, output = run(tmp_path, "")
    assert code == 0 and "1 passed, 3 skipped, 1 xfailed" in output, output


def test_a_listed_skip_is_none_of_these_and_every_entry_has_a_reason() -> None:
    assert failure("tests/compose/test_service.py::test_a_thing", "no engine") is None
    assert failure("tests/unit/test_source.py::test_a_thing", "no engine") is not None
    assert all(reason.strip() for reason in ALLOWED.values())
