"""Starts local actors over ipc, restarts them when they exit, and reports each exit to the server."""

from __future__ import annotations

import threading
import time
from typing import Protocol

import structlog

from common.process.children import ACTOR_SERVER, ChildProcesses
from common.process.fork_server import ForkServer
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_DONE

log = structlog.get_logger()

_TICK_SECONDS = 0.25


class SupervisedServer(Protocol):
    """The server, as the supervisor uses it."""

    local_sessions: frozenset[bytes]

    def local_actor_exited(self, sid: bytes, produced: int) -> None:
        """End the session of a local actor whose process ended after `produced` steps."""


class Supervisor:
    """Runs local actors from a thread of its own, because the trainer is busy for seconds.

    The actors may import `module` for their environment.
    """

    def __init__(
        self, endpoint: str, count: int, server: SupervisedServer, module: str | None = None
    ) -> None:
        argv = ["--learner", endpoint, *([] if module is None else ["--allow-module", module])]
        self._children = ChildProcesses(ForkServer(ACTOR_SERVER), argv, count)
        self._server = server
        self._closing = threading.Event()
        self.last_loop_at = time.monotonic()  # for the watchdog
        self.misconfigured = 0  # actors that exited because of their configuration, which no restart corrects
        self._thread = threading.Thread(target=self._run, name="supervisor")
        self._thread.start()

    def _run(self) -> None:
        while not self._closing.wait(_TICK_SECONDS):
            self.last_loop_at = time.monotonic()
            for end in self._children.tick():
                if end.code == EXIT_DONE:
                    continue
                misconfigured = end.code == EXIT_CONFIGURATION
                self.misconfigured += misconfigured
                log.warning(
                    "local_actor_exited",
                    actor=end.number,
                    code=end.code,
                    steps=end.produced,
                    next="not restarting it: correct its configuration" if misconfigured else "restarting it",
                )
                self._server.local_actor_exited(end.sid, end.produced)
            self._server.local_sessions = frozenset(self._children.sids())
        self._children.stop()

    def close(self) -> None:
        """End every local actor and the thread."""
        self._closing.set()
        self._thread.join()
