"""A forked process behaves like a new one: exit code, signals, descriptors; none remains at the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import cast

import psutil
import pytest

from actor.fleet import Fleet
from actor.metrics import FleetCollector
from actor.weights import WeightsSource
from common.process.children import ACTOR_SERVER, ChildProcesses, Exit
from common.process.fork_server import ForkedProcess, ForkServer
from common.process.lifecycle import EXIT_TEMPORARY
from tests.support.processes import PATIENCE_SECONDS, ROOT, SELECT_DESCRIPTORS, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def server() -> Iterator[ForkServer]:
    with contextlib.closing(ForkServer("tests.support.forks")) as server:
        yield server


def pid_of(child: ForkedProcess) -> int:
    assert child.pid is not None
    return child.pid


def parent_of(child: ForkedProcess) -> int:
    return psutil.Process(pid_of(child)).ppid()


@pytest.mark.parametrize("code", [0, 70, 75, 78])
def test_the_exit_code_of_a_child_is_reported(server: ForkServer, code: int) -> None:
    child = server.start(["exit", str(code)], {})
    assert child.wait(PATIENCE_SECONDS) == child.poll() == child.returncode == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_that_a_signal_ends_has_minus_the_signal_as_its_code(server: ForkServer, number: int) -> None:
    child, other = server.start(["sleep"], {}), server.start(["sleep"], {})
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.0)
    child.send_signal(number)
    assert child.wait(PATIENCE_SECONDS) == -number
    assert other.poll() is None
    other.kill()
    assert other.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    other.terminate()  # has no effect after the end


def test_a_child_is_set_up_as_a_new_process(server: ForkServer, tmp_path: Path) -> None:
    """It has its own group, no input, default signals, and no other descriptors of the server."""
    sibling = server.start(["sleep"], {})
    child = server.start(["facts", str(tmp_path / "facts")], {})
    assert child.wait(PATIENCE_SECONDS) == 0
    facts = json.loads((tmp_path / "facts").read_text())
    assert facts["server"] == parent_of(sibling)
    assert facts["server_threads"] == 1
    assert facts["own_group"] and facts["server_group"] and facts["terminated"]
    assert facts["stdin"] == os.devnull
    held = {name for fd, name in facts["descriptors"].items() if int(fd) > 2}
    assert not [name for name in held if name.startswith(("pipe", "socket"))], held
    sibling.kill()
    sibling.wait(PATIENCE_SECONDS)


def test_a_passed_socket_ends_with_its_owner_and_a_child_notices(server: ForkServer) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        child = server.start(["wait"], {"--parent-fd": theirs.fileno()})
    assert pid_of(child) and child.poll() is None
    ours.close()
    assert child.wait(PATIENCE_SECONDS) == 0


def test_a_killed_server_ends_its_children_and_the_next_start_launches_a_new_one(
    server: ForkServer,
) -> None:
    child = server.start(["sleep"], {})
    first = parent_of(child)
    os.kill(first, signal.SIGKILL)
    assert child.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    wait_until(lambda: not psutil.pid_exists(pid_of(child)), "the end of the child")
    later = server.start(["sleep"], {})
    assert parent_of(later) != first
    later.kill()
    later.wait(PATIENCE_SECONDS)


def test_a_server_that_cannot_start_is_an_internal_error_of_each_child() -> None:
    with contextlib.closing(ForkServer("tests.integration.no_such_module")) as server:
        child = server.start([], {})
        assert child.wait(PATIENCE_SECONDS) == 70
        child.terminate()


def test_children_are_stopped_while_their_server_loads() -> None:
    """`stop` does not wait for the server; children that were never forked have no exit."""
    children = ChildProcesses(ForkServer("tests.support.never_loads"), [], 3)
    assert children.tick() == []
    assert children.alive == 3
    assert children.stop() == []
    assert children.alive == 0


def test_a_fleet_that_is_stopped_while_its_server_loads_has_not_finished(tmp_path: Path) -> None:
    children, stop = ChildProcesses(ForkServer("tests.support.never_loads"), [], 3), Event()
    children.tick()
    stop.set()
    assert Fleet(children, cast(WeightsSource, None), tmp_path, FleetCollector()).run(stop) == EXIT_TEMPORARY


def test_a_fork_that_fails_ends_that_child_alone() -> None:
    with contextlib.closing(ForkServer("tests.support.fork_fails")) as server:
        healthy = server.start(["sleep"], {})
        process = pid_of(healthy)
        assert server.start(["exit", "0"], {}).wait(PATIENCE_SECONDS) == 70
        later = server.start(["exit", "75"], {})
        assert later.wait(PATIENCE_SECONDS) == 75
        assert healthy.poll() is None and psutil.pid_exists(process)
        healthy.kill()
        assert healthy.wait(PATIENCE_SECONDS) == -signal.SIGKILL


@pytest.mark.parametrize("count", [-1, 20])
def test_a_request_whose_descriptors_do_not_arrive_ends_that_child_alone(
    server: ForkServer, count: int
) -> None:
    """An invalid descriptor cannot be sent; those after the 16th of a request are lost."""
    healthy = server.start(["sleep"], {})
    first, before = parent_of(healthy), psutil.Process().num_fds()
    options = {f"--{number}": 0 for number in range(count)} if count > 0 else {"--none": -1}
    assert server.start(["exit", "0"], options).wait(PATIENCE_SECONDS) == 70
    assert psutil.Process().num_fds() == before
    assert healthy.poll() is None and parent_of(healthy) == first
    healthy.kill()
    healthy.wait(PATIENCE_SECONDS)


@pytest.mark.usefixtures("many_descriptors")
def test_children_are_forked_over_descriptors_that_select_refuses() -> None:
    with contextlib.closing(ForkServer("tests.support.forks")) as server:
        child = server.start(["exit", "75"], {})
        assert child._status >= SELECT_DESCRIPTORS
        assert child.wait(PATIENCE_SECONDS) == 75


@pytest.mark.parametrize(("code", "starts"), [(70, 3), (75, 3), (0, 1), (78, 1)])
def test_a_child_is_restarted_unless_its_exit_code_is_final(
    server: ForkServer, code: int, starts: int
) -> None:
    children, ends = ChildProcesses(server, ["exit", str(code)], 1), list[Exit]()

    def ended() -> bool:
        ends.extend(children.tick())
        return len(ends) >= starts

    wait_until(ended, f"{starts} ends")
    assert {(end.number, end.code) for end in ends} == {(0, code)}
    assert (children.children[0].start_at == float("inf")) == (starts == 1)
    children.stop()


OWNER = """
import time
from common.process.fork_server import ForkServer
import socket
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server = ForkServer("tests.support.forks")
child = server.start(["wait"], {"--parent-fd": theirs.fileno()})
theirs.close()
print(child.pid, flush=True)
time.sleep(600)
"""


def test_nothing_is_left_when_the_owner_is_killed() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, env=environment) as owner:
        assert owner.stdout is not None
        child = psutil.Process(int(owner.stdout.readline()))
        server = child.parent()
        assert server is not None
        owner.kill()
        assert psutil.wait_procs([child, server], PATIENCE_SECONDS)[1] == []


def test_the_server_of_actors_has_loaded_torch_and_has_one_thread() -> None:
    """A lock that another thread holds at a fork stays locked in the child."""
    with contextlib.closing(ForkServer(ACTOR_SERVER)) as server:
        child = server.start(["--learner", "nonsense"], {})
        assert child.wait(PATIENCE_SECONDS) == 2
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        assert process.num_threads() == 1
        assert any("libtorch" in mapped.path for mapped in process.memory_maps())
