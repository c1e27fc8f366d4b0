"""Actor processes that belong to another process: started, restarted with back-off, never left behind.

Each child gets one end of a socket, whose end-of-file tells it that its parent is gone, and a small
shared file in which it keeps its step count, readable after a kill. The learner uses this for
`--local-actors`, the parent of `--procs` for its actors. All are forked from one server that has torch.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

import structlog

from common.process.fork_server import Forked, ForkServer
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_DONE, Backoff
from common.process.parent_link import TALLY

log = structlog.get_logger()

ACTOR_SERVER = "actor.fork_server"  # the module of the server that forks actors

_STOP_SECONDS = 12.0  # above the time an actor takes to say Bye,
_STOP_MOST_SECONDS = 60.0  # and as many times that as there are for a core, up to this
_STEADY_SECONDS = 30.0  # a child that lived this long restarts without delay


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of one child: which, how, and what it had counted."""

    number: int
    code: int
    sid: bytes
    produced: int


@dataclass(slots=True)
class Child:
    """One place among the children, and the process that fills it at present."""

    number: int
    argv: list[str]
    backoff: Backoff = field(default_factory=Backoff)
    process: Forked | None = None
    socket: socket.socket | None = None
    start_at: float = 0.0
    _tally: mmap.mmap | None = None

    def start(self, now: float, server: ForkServer) -> None:
        """Start the process.

        Raises:
            OSError: this process lacks descriptors, memory or space on its disk.
        """
        with contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.callback(ours.close)
            with theirs, tempfile.TemporaryFile() as file:
                file.truncate(TALLY.size)
                self._tally = mmap.mmap(file.fileno(), TALLY.size)
                descriptors = {"--parent-fd": theirs.fileno(), "--tally-fd": file.fileno()}
                self.process = server.start(self.argv, descriptors)
            stack.pop_all()
        self.socket, self.start_at = ours, now

    @property
    def sid(self) -> bytes:
        """The session that the process runs."""
        assert self._tally is not None
        return bytes(TALLY.unpack_from(self._tally)[0])

    def ended(self) -> Exit | None:
        """The exit of the process, once."""
        if self.process is None or self.process.poll() is None:
            return None
        assert self._tally is not None and self.socket is not None
        sid, produced = TALLY.unpack_from(self._tally)
        end = Exit(self.number, self.process.wait(), sid, produced)
        self._tally.close()
        self.socket.close()
        self.process = self.socket = None
        return end


class ChildProcesses:
    """N actors with the same arguments. Owned by one thread."""

    def __init__(self, server: ForkServer, argv: list[str], count: int) -> None:
        self._server = server
        self.children = [Child(number, argv) for number in range(count)]
        self._restart = True

    def tick(self) -> list[Exit]:
        """Start children that are due; return those that ended. One that cannot succeed is not restarted."""
        now = time.monotonic()
        ends = []
        for child in self.children:
            end = child.ended()
            if end is not None:
                ends.append(end)
                if now - child.start_at > _STEADY_SECONDS:
                    child.backoff.reset()
                misconfigured = end.code in (EXIT_DONE, EXIT_CONFIGURATION)
                child.start_at = float("inf") if misconfigured else now + child.backoff.next_seconds()
            if child.process is None and self._restart and now >= child.start_at:
                self._start(child, now)
        return ends

    def _start(self, child: Child, now: float) -> None:
        try:
            child.start(now, self._server)
        except OSError as error:
            log.warning("actor_not_started", actor=child.number, reason=str(error), next="trying again")
            child.start_at = now + child.backoff.next_seconds()

    @property
    def alive(self) -> int:
        """Children whose process runs."""
        return sum(child.process is not None and child.process.poll() is None for child in self.children)

    def sids(self) -> set[bytes]:
        """The sessions that the children run at present."""
        return {child.sid for child in self.children if child.process is not None}

    def stop(self) -> list[Exit]:
        """End every child: ask, wait, then kill; returns the exits of those that were forked."""
        self._restart = False
        running = {child.number: child.process for child in self.children if child.process is not None}
        if not any(process.forked for process in running.values()):
            self._server.close()  # it may still load its modules, which takes seconds
        for process in running.values():
            process.terminate()
        share = max(1.0, len(running) / (os.cpu_count() or 1))
        deadline = time.monotonic() + min(_STOP_SECONDS * share, _STOP_MOST_SECONDS)
        for process in running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for process in running.values():  # all at once: those that are left take the time of each other
            process.kill()
        for process in running.values():
            process.wait()
        ends = [end for end in self.tick() if running[end.number].forked]
        self._server.close()
        return ends
