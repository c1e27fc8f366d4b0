"""Makes a skipped test a failure if CI=true, unless the list below names it with a reason."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Generator

import pytest

ALLOWED = {  # patterns of test ids -> why such a test cannot run on every CI machine
    "tests/compose/*": "needs a container engine",
    "tests/unit/deploy/test_deployment.py::test_the_files_fit_their_schema*": "needs docker with Compose",
    "tests/unit/deploy/test_deployment.py::test_the_actor_machine_asks_*": "needs docker with Compose",
    "tests/unit/deploy/test_deployment.py::test_kustomize_builds_objects*": "needs kubectl",
    "tests/unit/deploy/test_hardening.py::test_nft_*": "needs nft",
    "tests/unit/deploy/test_hardening.py::test_systemd_*": "needs systemd-analyze",
    "tests/unit/common/test_addresses.py::*tcp://[[]::*": "needs IPv6 on the loopback interface",
    "tests/unit/common/test_host_header.py::*[[]::1*": "needs IPv6 on the loopback interface",
}


def failure(test_id: str, reason: str) -> str | None:
    """The message for a skip that is a failure; None if the list names the test."""
    if any(fnmatch.fnmatchcase(test_id, pattern) for pattern in ALLOWED):
        return None
    return (
        f"expected {test_id} to run, got a skip ({reason}): install what it needs, or name it in "
        "tests/ci/skips.py with the reason"
    )


def _check(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    text = failure(report.nodeid, reason)
    if text is not None:
        report.outcome, report.longrepr = "failed", text


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Check each phase of a test."""
    report = yield
    _check(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Check a module that skips all of its tests."""
    report = yield
    _check(report)
    return report
