"""Every test gives back what it took: threads, sockets, child processes."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
import structlog
import torch
from hypothesis import HealthCheck, settings

from tests.ci.skips import pytest_make_collect_report, pytest_runtest_makereport
from tests.support.processes import SELECT_DESCRIPTORS, close_servers, server_pids

__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]  # hooks, for every test

_SETTLE_SECONDS = 60.0  # what ended may need a moment to be gone, on a busy machine more than one

# The same examples on every machine, however slow it is.
settings.register_profile(
    "same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")


# One thread for each process: tests run beside others on few cores. Learners in this process obey it too.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


def _held() -> tuple[set[str], int, set[int]]:
    # pyzmq and torch keep threads of their own for the life of the process.
    threads = {t.name for t in threading.enumerate() if not t.daemon}
    process = psutil.Process()
    children = {child.pid for child in process.children(recursive=True)} - server_pids()
    return threads, len(process.net_connections()), children


@pytest.fixture(autouse=True, scope="session")
def _fork_servers() -> Iterator[None]:
    """They live as long as the worker."""
    yield
    close_servers()


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Every descriptor below 1024 is in use."""
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
def _forgets_logging() -> Iterator[None]:
    """A command run inside a test sets up logging onto that test's captured output."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    threads, sockets, children = _held()
    yield
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        now_threads, now_sockets, now_children = _held()
        left = (now_threads - threads, now_sockets - sockets, now_children - children)
        if not left[0] and left[1] <= 0 and not left[2]:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"expected nothing left behind, got threads, sockets, children: {left}")
        time.sleep(0.05)
