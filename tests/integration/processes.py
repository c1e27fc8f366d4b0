"""Learners and actors as a user starts them: commands, in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
_COUNTING = Path(__file__).parent / "counting"
PATIENCE_SECONDS = 120.0


def free_port() -> int:
    """A port that nobody serves, nor the next one.

    Below 32,768: from there on a system gives ports to connections, and a learner needs seconds to bind.
    """
    while True:
        port = 10_000 + 2 * secrets.randbelow(11_000)
        with socket.socket() as first, socket.socket() as second, contextlib.suppress(OSError):
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 1))
            return port


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Look every 50 ms until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"expected {what} within {seconds:.0f} s"
        time.sleep(0.05)


@dataclass
class Command:
    """A running command; its output goes to files."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    @staticmethod
    def start(
        directory: Path,
        name: str,
        *argv: str,
        count: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Command:
        """Start `python -m ...`, with the step counter on its path if asked for."""
        out, err = directory / f"{name}.out", directory / f"{name}.err"
        whole = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        whole |= {"OMP_NUM_THREADS": "1"}  # several processes share few cores here
        if count:
            steps = directory / "steps"
            steps.mkdir(exist_ok=True)
            whole |= {"PYTHONPATH": f"{_COUNTING}:{ROOT}", "STEP_COUNT_DIR": str(steps)}
        whole |= environment or {}
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", *argv], stdout=stdout, stderr=stderr, env=whole, cwd=directory
            )
        return Command(process, out, err)

    def finish(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for its end; returns the exit code."""
        return self.process.wait(seconds)

    def descendants(self) -> list[psutil.Process]:
        """Its child processes."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> None:
        """Make sure that nothing of it runs on."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [*self.descendants(), psutil.Process(self.process.pid)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait(10)


@dataclass
class Run:
    """A learner on a run directory, restarted as often as a test likes."""

    directory: Path
    port: int
    arguments: tuple[str, ...]
    count: bool = False
    starts: int = 0
    module: str = "learner"
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.directory / "run"

    @contextlib.contextmanager
    def learner(self, *more: str) -> Iterator[Command]:
        """A learner that is ended with the block."""
        self.starts += 1
        bind = f"tcp://127.0.0.1:{self.port}"
        argv = (self.module, *self.arguments, "--run-dir", str(self.path), "--bind", bind, *more)
        name = f"learner{self.starts}"
        command = Command.start(self.directory, name, *argv, count=self.count, environment=self.environment)
        try:
            yield command
        finally:
            command.end()

    def summary(self) -> dict[str, object]:
        """summary.json."""
        value: dict[str, object] = json.loads((self.path / "summary.json").read_text())
        return value

    def steps_reached(self, command: Command, steps: int) -> bool:
        """Whether the progress of the run shows at least so many steps."""
        assert command.process.poll() is None, command.err.read_text()[-2000:]
        return self.metric("outrider_run_env_steps", command) >= steps

    def metric(self, name: str, command: Command) -> float:
        """One sample of the learner's exporter, 0 before there is one."""
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
            return 0.0
        with contextlib.suppress(OSError):
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
            for row in page.splitlines():
                if row.split(" ")[0] == name:
                    return float(row.split(" ")[1])
        return 0.0

    def counted_steps(self) -> int:
        """Emulator steps of all processes so far, by the independent counter."""
        return sum(self.counted_by_process().values())

    def counted_by_process(self) -> dict[int, int]:
        """The same by process id."""
        files = (self.directory / "steps").iterdir()
        return {int(file.name): struct.unpack("=Q", file.read_bytes())[0] for file in files}


def kill(pid: int) -> None:
    """kill -9."""
    os.kill(pid, signal.SIGKILL)
