"""Starts learners and actors as commands in their own processes, most of them forked, as a user would."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from common.process.children import ACTOR_SERVER
from common.process.fork_server import ForkedProcess, ForkServer
from learner.presets import PRESETS

ROOT = Path(__file__).parents[2]
_COUNTING = Path(__file__).parent / "counting"
SELECT_DESCRIPTORS = 1024  # `select.select` accepts only descriptors below this
PATIENCE_SECONDS = 120.0
_WITHOUT_RUN = re.compile(r',?run="[^"]*"')  # the label that every sample of a learner has


_reserved: list[socket.socket] = []  # open until this process ends


def free_port() -> int:
    """Find two free consecutive ports and reserve them among the test processes; return the first.

    They are below 32,768: a learner binds only after seconds, and the system assigns higher ports to other
    connections meanwhile. The reservation is the name of an abstract socket, which ends with the process.
    """
    while True:
        port = 10_000 + 2 * secrets.randbelow(11_000)
        reservation = socket.socket(socket.AF_UNIX)
        with socket.socket() as first, socket.socket() as second, contextlib.suppress(OSError):
            reservation.bind(f"\0outrider-test-port-{port}")
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 1))
            _reserved.append(reservation)
            return port
        reservation.close()


def _environment(directory: Path, count: bool) -> dict[str, str]:
    """The environment of a command; `count` adds the step counter to its path."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    environment |= {"OMP_NUM_THREADS": "1"}  # several processes share few cores
    if count:
        steps = directory / "steps"
        steps.mkdir(exist_ok=True)
        environment |= {"PYTHONPATH": f"{_COUNTING}:{ROOT}", "STEP_COUNT_DIR": str(steps)}
    return environment


def forced_precision(preset: str) -> tuple[str, ...]:
    """Options that set TEST_PRECISION for a preset whose precision depends on the machine."""
    forced = os.environ.get("TEST_PRECISION")
    return ("--precision", forced) if forced and PRESETS[preset].precision == "auto" else ()


def _pause() -> None:
    time.sleep(0.05)


def holds_within(
    condition: Callable[[], object], seconds: float, between: Callable[[], object] = _pause
) -> bool:
    """Check the condition until it holds or the time has passed; call `between` after each failed check."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        between()
    return True


def wait_until(
    condition: Callable[[], object],
    what: str,
    seconds: float = PATIENCE_SECONDS,
    between: Callable[[], object] = _pause,
) -> float:
    """Wait until the condition holds, and fail after the time; return the time it took, in seconds."""
    start = time.monotonic()
    assert holds_within(condition, seconds, between), f"expected {what} within {seconds:.0f} s"
    return time.monotonic() - start


# Fork servers of this test worker. Each starts on first use and ends with the worker.
_commands = ForkServer("tests.support.commands")
local_actors = ForkServer(ACTOR_SERVER)  # for learners that run inside a test


def server_pids() -> set[int]:
    """The process ids of the fork servers."""
    return {server.process.pid for server in (_commands, local_actors) if server.process is not None}


def close_servers() -> None:
    """End the fork servers."""
    for server in (_commands, local_actors):
        server.close()


@dataclass
class Command:
    """A running command, which writes its output to files."""

    process: subprocess.Popen[bytes] | ForkedProcess
    pid: int
    out: Path
    err: Path

    @staticmethod
    def start(
        directory: Path,
        name: str,
        *argv: str,
        count: bool = False,
        environment: Mapping[str, str] | None = None,
        constants: Mapping[str, object] | None = None,
    ) -> Command:
        """Run the module `argv[0]`, forked from a process that has loaded torch.

        Args:
            directory: the working directory, which also holds the output files.
            name: the stem of the output files.
            argv: the module and its arguments.
            count: whether emulator steps are counted, see `Run.counted_steps`.
            environment: variables to add.
            constants: values for module attributes, by their full names.
        """
        out, err = directory / f"{name}.out", directory / f"{name}.err"
        request = {
            "argv": argv,
            "environment": _environment(directory, count) | dict(environment or {}),
            "directory": str(directory),
            "out": str(out),
            "err": str(err),
            "constants": dict(constants or {}),
        }
        for path in (out, err):
            path.unlink(missing_ok=True)
        process = _commands.start([json.dumps(request)], {})
        assert process.pid is not None, "expected a fork server that starts"
        wait_until(err.exists, "its output files")
        return Command(process, process.pid, out, err)

    @staticmethod
    def start_new(directory: Path, name: str, *argv: str, count: bool = False) -> Command:
        """Run a command line in a new process, as a shell does."""
        out, err = directory / f"{name}.out", directory / f"{name}.err"
        environment = _environment(directory, count)
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(argv, stdout=stdout, stderr=stderr, env=environment, cwd=directory)
        return Command(process, process.pid, out, err)

    def finish(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for the end of the process; return the exit code."""
        return self.process.wait(seconds)

    def descendants(self) -> list[psutil.Process]:
        """The child processes: a fork server and its actors."""
        return psutil.Process(self.pid).children(recursive=True)

    def actors(self) -> list[psutil.Process]:
        """The actors, which are children of the command's fork server."""
        return [actor for server in psutil.Process(self.pid).children() for actor in server.children()]

    def end(self) -> None:
        """Kill the command and its descendants."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [*self.descendants(), psutil.Process(self.pid)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait(10)


@dataclass
class Run:
    """A run directory and the learners that a test starts on it."""

    directory: Path
    port: int
    arguments: tuple[str, ...]
    count: bool = False
    starts: int = 0
    module: str = "learner"
    environment: dict[str, str] = field(default_factory=dict)
    constants: dict[str, object] = field(default_factory=dict)  # see `Command.start`

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.directory / "run"

    @contextlib.contextmanager
    def learner(self, *more: str) -> Iterator[Command]:
        """Run a learner, and kill it at the end of the block."""
        self.starts += 1
        bind = f"tcp://127.0.0.1:{self.port}"
        options = (*self.arguments, *forced_precision(self.arguments[0]), "--run-dir", str(self.path))
        argv = (self.module, *options, "--bind", bind, *more)
        name = f"learner{self.starts}"
        command = Command.start(
            self.directory,
            name,
            *argv,
            count=self.count,
            environment=self.environment,
            constants=self.constants,
        )
        try:
            yield command
        finally:
            command.end()

    def summary(self) -> dict[str, object]:
        """Read summary.json."""
        value: dict[str, object] = json.loads((self.path / "summary.json").read_text())
        return value

    def steps_reached(self, command: Command, steps: int) -> bool:
        """Whether the learner exports at least `steps` steps of the run."""
        assert command.process.poll() is None, command.err.read_text()[-2000:]
        return self.metric("outrider_run_env_steps", command) >= steps

    def metric(self, name: str, command: Command) -> float:
        """One sample of the learner's exporter; 0 if it does not respond or does not have the metric."""
        return self.sample(name, command) or 0.0

    def sample(self, name: str, command: Command) -> float | None:
        """One sample of the learner's exporter; None if it does not respond or does not have the metric."""
        import urllib.request

        port = next(
            (
                json.loads(row)["port"]
                for row in command.err.read_text().splitlines()
                if "metrics_served" in row
            ),
            None,
        )
        if port is None:
            return None
        with contextlib.suppress(OSError):
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
            for row in page.splitlines():
                if _WITHOUT_RUN.sub("", row.split(" ")[0]).replace("{}", "") == name:
                    return float(row.split(" ")[1])
        return None

    def counted_steps(self) -> int:
        """The emulator steps of all processes so far, by the independent counter."""
        return sum(self.counted_by_process().values())

    def counted_by_process(self) -> dict[int, int]:
        """The emulator steps so far, by process id."""
        files = (self.directory / "steps").iterdir()
        return {int(file.name): struct.unpack("=Q", file.read_bytes())[0] for file in files}


def kill(pid: int) -> None:
    """Send SIGKILL."""
    os.kill(pid, signal.SIGKILL)
