"""Threads and descriptors of a learner, on machines of every kind."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
import torch

from common.config import NetworkConfig
from common.protocol.sockets import Context, RouterSocket
from common.spaces import Spaces
from learner import resource_limits
from learner.resource_limits import sessions_that_fit, training_threads

IMAGES, VECTORS = Spaces((84, 84), 4, 6), Spaces((4,), 1, 2)


@pytest.mark.parametrize("cores", [1, 2, 16])
def test_images_train_on_all_usable_cores_and_small_networks_on_one(cores: int) -> None:
    assert training_threads(IMAGES, NetworkConfig(), cores, None) == cores
    assert training_threads(VECTORS, NetworkConfig(), cores, None) == 1
    assert training_threads(VECTORS, NetworkConfig(hidden=4096), cores, None) == cores


@pytest.mark.parametrize("spaces", [IMAGES, VECTORS], ids=["images", "vectors"])
def test_the_users_omp_num_threads_wins(spaces: Spaces) -> None:
    assert training_threads(spaces, NetworkConfig(), 8, "3") is None
    assert training_threads(spaces, NetworkConfig(), 8, "") is not None  # set to nothing is not set


def test_the_descriptor_limit_is_raised_to_the_hard_one() -> None:
    """In a process of its own, because a limit stays raised."""
    program = (
        "import resource as r; from learner.resource_limits import raise_descriptor_limit as f; "
        "hard = min(r.getrlimit(r.RLIMIT_NOFILE)[1], 900) if r.getrlimit(r.RLIMIT_NOFILE)[1] > 0 else 900; "
        "r.setrlimit(r.RLIMIT_NOFILE, (256, hard)); print(f() == hard == r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "True", done.stderr


def test_a_session_takes_two_descriptors() -> None:
    assert sessions_that_fit(2_064) == 1_000
    assert sessions_that_fit(2_066) == 1_001
    assert sessions_that_fit(10) == 0


def test_a_connection_takes_one_descriptor_of_the_learner() -> None:
    """A session has two connections. The first byte of the greeting shows that one was accepted."""
    with Context() as context:
        server = RouterSocket(context, 1 << 20)
        port = int(server.bind("tcp://127.0.0.1:*").rpartition(":")[2])
        before, count = len(list(Path("/proc/self/fd").iterdir())), 5
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                ours = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
                assert ours.recv(1)
            assert len(list(Path("/proc/self/fd").iterdir())) - before == 2 * count  # both ends are here
        server.close()


def test_a_learner_starts_with_its_threads_and_logs_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(resource_limits, "usable_cores", lambda: 7)
    monkeypatch.setattr(resource_limits, "raise_descriptor_limit", lambda: 2_064)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with structlog.testing.capture_logs() as logs:
        resource_limits.apply_limits(IMAGES, NetworkConfig())
        resource_limits.apply_limits(VECTORS, NetworkConfig())
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        resource_limits.apply_limits(IMAGES, NetworkConfig())
    assert chosen == [7, 1]
    assert [(line["descriptors"], line["remote_sessions"]) for line in logs] == [(2_064, 1_000)] * 3
