"""Child processes: starts, restarts, exits and stops, with simulated processes."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from dataclasses import dataclass, field
from typing import Any, cast

import psutil
import pytest
from structlog.testing import capture_logs

from common.process import children
from common.process.children import ChildProcesses, Exit
from common.process.fork_server import ForkServer
from common.process.lifecycle import Backoff
from common.process.parent_link import ParentLink
from tests.support.clock import Clock

SID = bytes(range(16))


@dataclass
class Process:
    """Stands for a forked process; it holds its own copies of the descriptors."""

    parent: ParentLink
    ends_on_sigterm: bool = True
    forked: bool = True
    code: int | None = None

    def end(self, code: int) -> None:
        """End, if the process still runs."""
        if self.code is None:
            self.code = code
            self.parent.close()

    def poll(self) -> int | None:
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        if self.code is None:
            raise subprocess.TimeoutExpired("process", timeout or 0.0)
        return self.code

    def terminate(self) -> None:
        if self.ends_on_sigterm:
            self.end(0)

    def kill(self) -> None:
        self.end(-9)


@dataclass
class Server:
    """Stands for a fork server; its first starts may fail for lack of processes."""

    failures: int = 0
    ends_on_sigterm: bool = True
    processes: list[Process] = field(default_factory=list)
    closed: bool = False

    def start(self, argv: list[str], descriptors: dict[str, int]) -> Any:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        parent = ParentLink(os.dup(descriptors["--parent-fd"]), descriptors["--step-count-fd"])
        self.processes.append(Process(parent, self.ends_on_sigterm))
        return self.processes[-1]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of `ChildProcesses`."""
    clock = Clock()
    monkeypatch.setattr(children, "time", clock)
    return clock


def owner_of(server: Server, count: int) -> ChildProcesses:
    return ChildProcesses(cast(ForkServer, server), [], count)


def test_a_child_that_cannot_be_started_is_tried_again_and_leaks_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Backoff, "next_seconds", lambda self: 0.0)
    owner = owner_of(Server(failures=2), 3)
    before = psutil.Process().num_fds()
    with capture_logs() as logged:
        assert owner.tick() == []
    assert owner.alive == 1
    assert [entry["event"] for entry in logged] == ["actor_not_started"] * 2
    assert owner.tick() == [] and owner.alive == 3
    assert [end.code for end in owner.stop()] == [0, 0, 0]
    assert psutil.Process().num_fds() == before


def test_an_exit_names_the_session_and_the_steps_of_a_killed_child() -> None:
    server = Server()
    owner = owner_of(server, 2)
    owner.tick()
    server.processes[1].parent.write_step_count(SID, 7)
    assert owner.sids() == {bytes(16), SID}
    server.processes[1].kill()
    assert owner.tick() == [Exit(1, -9, SID, 7)]
    assert owner.tick() == []
    owner.stop()


@pytest.mark.parametrize(("code", "restarts"), [(0, False), (78, False), (70, True), (75, True), (-9, True)])
def test_a_child_starts_again_unless_its_exit_is_final(code: int, restarts: bool, clock: Clock) -> None:
    server = Server()
    owner = owner_of(server, 1)
    owner.tick()
    server.processes[0].end(code)
    owner.tick()
    clock.now += 3_600.0
    owner.tick()
    assert len(server.processes) == 1 + restarts
    owner.stop()


def test_restarts_wait_for_a_back_off_that_a_stable_child_resets(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "next_seconds", lambda self: 5.0)
    resets: list[None] = []
    monkeypatch.setattr(Backoff, "reset", lambda self: resets.append(None))
    server = Server()
    owner = owner_of(server, 1)
    for lived_seconds in (29.0, 31.0):
        owner.tick()
        clock.now += lived_seconds
        server.processes[-1].end(75)
        owner.tick()
        starts = len(server.processes)
        clock.now += 4.5
        owner.tick()
        assert len(server.processes) == starts
        clock.now += 0.5
    assert len(resets) == 1
    owner.stop()


def test_a_child_that_ignores_the_stop_is_killed_and_none_starts_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(children, "_MAX_STOP_SECONDS", 0.0)
    monkeypatch.setattr(Backoff, "next_seconds", lambda self: 0.0)
    server = Server(ends_on_sigterm=False)
    owner = owner_of(server, 2)
    owner.tick()
    assert [(end.number, end.code) for end in owner.stop()] == [(0, -9), (1, -9)]
    assert server.closed
    assert owner.tick() == [] and owner.alive == 0


def test_a_child_that_was_not_forked_when_it_is_stopped_has_no_exit() -> None:
    server = Server()
    owner = owner_of(server, 2)
    owner.tick()
    server.processes[0].forked = False
    assert [end.number for end in owner.stop()] == [1]


def test_a_child_notices_the_end_of_its_parent() -> None:
    server = Server()
    owner = owner_of(server, 1)
    owner.tick()
    link = server.processes[0].parent
    assert not link.gone()
    parent_end = owner.children[0].socket
    assert isinstance(parent_end, socket.socket)
    parent_end.close()
    assert link.gone()
    link.close()
