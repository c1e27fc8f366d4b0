"""`python -m tests.support.commands FD`: the fork server that starts the commands of a test worker.

A command behaves as if a shell had started it: it has its own arguments, environment, directory, output
files, process group and exit code. The fork server of its actors is forked as well, because a new one would
load PyTorch again.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import socket
import sys
from pathlib import Path
from typing import Any, ClassVar

from common.process import fork_server

ROOT = Path(__file__).parents[2]
_COUNTING = ROOT / "tests" / "support" / "counting" / "sitecustomize.py"
_LOADED = (
    *("actor.build", "learner.service", "tests.support.counted"),
    *("gymnasium.envs.classic_control", "torch._dynamo"),  # loaded by the first lane and the first optimiser
)


class PreparedServer:
    """A fork server process, forked before the command starts threads; its interface is that of `Popen`."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            self.control.close()
            os.setpgid(0, 0)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.argv = ["actor", *fork_server.serve(theirs.detach())]
            from actor.__main__ import main

            main()
        theirs.close()
        self._ended = False

    def poll(self) -> int | None:
        """Return 0 after the process has ended, None before."""
        self._ended = self._ended or os.waitpid(self.pid, os.WNOHANG)[0] != 0
        return 0 if self._ended else None

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> int:
        """Wait for the end of the process."""
        if not self._ended:
            os.waitpid(self.pid, 0)
        self._ended = True
        return 0


class PreparedForkServer(fork_server.ForkServer):
    """A fork server whose first launch takes a prepared process; a later launch starts a new process."""

    prepared: ClassVar[list[PreparedServer]] = []

    def launch(self) -> None:
        if self.process is None and self.prepared:
            server = self.prepared.pop()
            self._control, self.process = server.control, server  # type: ignore[assignment]
        super().launch()


def prepare_server() -> None:
    """Fork the server of the command's actors, for the command's first launch."""
    PreparedForkServer.prepared.append(PreparedServer())
    for name in ("common.process.fork_server", "learner.supervisor"):
        importlib.import_module(name).ForkServer = PreparedForkServer  # type: ignore[attr-defined]


def set_up(request: dict[str, Any]) -> None:
    """Apply the request's environment, directory, output files and constants to this process."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    for number, path in ((1, request["out"]), (2, request["err"])):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # so that a killed process leaves its output
    for name, value in request["constants"].items():
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
        setattr(importlib.import_module(module), attribute, value)
    if "STEP_COUNT_DIR" in os.environ:
        runpy.run_path(str(_COUNTING))
    prepare_server()


def main() -> None:
    """Serve requests; each child runs a module as `python -m` does."""
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(ROOT))
    for name in _LOADED:
        importlib.import_module(name)
    request = json.loads(fork_server.serve(int(sys.argv[1]))[0])
    set_up(request)
    sys.argv = request["argv"]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
