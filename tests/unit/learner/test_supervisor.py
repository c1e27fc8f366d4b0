"""What the supervisor reports to the server."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import pytest

import learner.supervisor
from common.process.children import Exit
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_DONE
from learner.supervisor import Supervisor
from tests.support.processes import PATIENCE_SECONDS

SIDS = [bytes([number]) * 16 for number in range(3)]


class FakeChildProcesses:
    """Implements `ChildProcesses`: its children exit in the order of `exits`."""

    exits: queue.SimpleQueue[Exit]
    argv: list[str]

    def __init__(self, server: object, argv: list[str], count: int) -> None:
        FakeChildProcesses.argv, self.count = argv, count

    def tick(self) -> list[Exit]:
        return [self.exits.get()] if not self.exits.empty() else []

    def sids(self) -> list[bytes]:
        return SIDS[: self.count]

    def stop(self) -> None:
        pass


class RecordingServer:
    """Records what the supervisor reports."""

    def __init__(self) -> None:
        self.exited: queue.Queue[tuple[bytes, int]] = queue.Queue()
        self.assigned: queue.Queue[frozenset[bytes]] = queue.Queue()

    @property
    def local_sessions(self) -> frozenset[bytes]:
        raise AssertionError("expected only an assignment")

    @local_sessions.setter
    def local_sessions(self, sessions: frozenset[bytes]) -> None:
        self.assigned.put(sessions)

    def local_actor_exited(self, sid: bytes, produced: int) -> None:
        self.exited.put((sid, produced))


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> Iterator[queue.SimpleQueue[Exit]]:
    """The exits of the children, in order; one is found at each tick."""
    FakeChildProcesses.exits = queue.SimpleQueue()
    monkeypatch.setattr(learner.supervisor, "ChildProcesses", FakeChildProcesses)
    monkeypatch.setattr(learner.supervisor, "ForkServer", lambda module: None)
    monkeypatch.setattr(learner.supervisor, "_TICK_SECONDS", 0.01)
    yield FakeChildProcesses.exits


def test_each_exit_but_a_clean_one_is_reported_with_its_steps(exits: queue.SimpleQueue[Exit]) -> None:
    """An actor that was allowed to leave has ended its session by itself."""
    exits.put(Exit(0, EXIT_DONE, SIDS[0], 10))
    exits.put(Exit(1, EXIT_CONFIGURATION, SIDS[1], 0))
    exits.put(Exit(2, -9, SIDS[2], 30))
    server = RecordingServer()
    supervisor = Supervisor("ipc://nowhere", 3, server)
    reported = [server.exited.get(timeout=PATIENCE_SECONDS) for _ in range(2)]
    supervisor.close()
    assert reported == [(SIDS[1], 0), (SIDS[2], 30)]
    assert supervisor.misconfigured == 1 and server.exited.empty()


def test_the_sessions_of_local_actors_are_assigned_to_the_server(exits: queue.SimpleQueue[Exit]) -> None:
    """The next checkpoint marks them, because they end with this process."""
    server = RecordingServer()
    supervisor = Supervisor("ipc://nowhere", 2, server)
    assert server.assigned.get(timeout=PATIENCE_SECONDS) == frozenset(SIDS[:2])
    supervisor.close()


@pytest.mark.parametrize(
    ("module", "options"), [(None, []), ("package.task", ["--allow-module", "package.task"])]
)
def test_local_actors_may_import_the_module_of_the_environment(
    module: str | None, options: list[str], exits: queue.SimpleQueue[Exit]
) -> None:
    Supervisor("ipc://nowhere", 1, RecordingServer(), module).close()
    assert FakeChildProcesses.argv == ["--learner", "ipc://nowhere", *options]
