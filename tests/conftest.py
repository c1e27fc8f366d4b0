"""Fixtures for all tests; every test must end its threads, sockets and child processes."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Iterator

import psutil
import pytest
import structlog
import torch
from hypothesis import HealthCheck, settings

from common import log
from tests.ci.skips import pytest_make_collect_report, pytest_runtest_makereport
from tests.support.processes import SELECT_DESCRIPTORS, close_servers, holds_within, server_pids

__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]  # hooks, for every test

_SETTLE_SECONDS = 60.0  # threads and processes may end late on a busy machine

# The same examples on every machine, however slow it is.
settings.register_profile(
    "same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")


# One thread for each process, also for learners inside a test: tests share few cores.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


def _held() -> tuple[set[str], int, set[int]]:
    # pyzmq and PyTorch keep daemon threads for the life of the process.
    threads = {t.name for t in threading.enumerate() if not t.daemon}
    process = psutil.Process()
    children = {child.pid for child in process.children(recursive=True)} - server_pids()
    return threads, len(process.net_connections()), children


@pytest.fixture(autouse=True, scope="session")
def _fork_servers() -> Iterator[None]:
    """End the fork servers with the worker."""
    yield
    close_servers()


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Open every descriptor below 1024 for the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        descriptor = -1
        while descriptor < SELECT_DESCRIPTORS:
            descriptor = os.open(os.devnull, os.O_RDONLY)
            stack.callback(os.close, descriptor)
        yield


@pytest.fixture(autouse=True)
def _resets_logging() -> Iterator[None]:
    """Reset logging, which a command inside a test directs to that test's output."""
    yield
    structlog.reset_defaults()
    log.fields.clear()


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    threads, sockets, children = _held()
    yield

    def leaked() -> tuple[set[str], int, set[int]]:
        now_threads, now_sockets, now_children = _held()
        return now_threads - threads, max(0, now_sockets - sockets), now_children - children

    if not holds_within(lambda: not any(leaked()), _SETTLE_SECONDS):
        pytest.fail(f"expected no threads, sockets or children left by the test, got {leaked()}")
