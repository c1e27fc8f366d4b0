"""The restarts of children, without processes."""

from __future__ import annotations

import errno
from typing import Any, cast

import psutil
import pytest
from structlog.testing import capture_logs

from common.process.children import ChildProcesses
from common.process.fork_server import ForkServer
from common.process.lifecycle import Backoff


class Running:
    """A process that runs until it is stopped."""

    forked = True
    code: int | None = None

    def poll(self) -> int | None:
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        assert self.code is not None
        return self.code

    def terminate(self) -> None:
        self.code = 0

    kill = terminate


class FullMachine:
    """A server whose first starts fail for lack of processes."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def start(self, argv: list[str], descriptors: dict[str, int]) -> Any:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return Running()

    def close(self) -> None:
        """Nothing runs."""


def test_a_child_that_cannot_be_started_is_tried_again_and_leaks_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Backoff, "next_seconds", lambda self: 0.0)
    owner = ChildProcesses(cast(ForkServer, FullMachine(failures=2)), [], 3)
    before = psutil.Process().num_fds()
    with capture_logs() as logged:
        assert owner.tick() == []
    assert owner.alive == 1
    assert [entry["event"] for entry in logged] == ["actor_not_started"] * 2
    assert owner.tick() == [] and owner.alive == 3
    assert [end.code for end in owner.stop()] == [0, 0, 0]
    assert psutil.Process().num_fds() == before
