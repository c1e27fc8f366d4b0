"""Starts, restarts and stops the actor processes of one parent.

A child reads an end-of-file from its socket when its parent ends. It keeps its step count in shared memory,
where the parent can read it after a kill; see `parent_link`. The learner starts `--local-actors` this way,
and the parent of `--procs` starts its actors. One fork server forks all of them.
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

from common.process.fork_server import ForkedProcess, ForkServer
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_DONE, Backoff
from common.process.parent_link import STEP_COUNT

log = structlog.get_logger()

ACTOR_SERVER = "actor.fork_server"  # the module of the server that forks actors

_STOP_SECONDS = 12.0  # longer than an actor repeats Bye; multiplied by the children per core
_MAX_STOP_SECONDS = 60.0
_STABLE_SECONDS = 30.0  # a child that ran this long restarts with the shortest delay


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of one child process."""

    number: int
    code: int
    sid: bytes  # its last session
    produced: int  # steps of that session


@dataclass(slots=True)
class Child:
    """One of the N actors, its process if it has one, and the time of its next start."""

    number: int
    argv: list[str]
    process: ForkedProcess | None = None
    socket: socket.socket | None = None
    start_at: float = 0.0  # start time of the running process, or else of the next one
    _backoff: Backoff = field(default_factory=Backoff)
    _step_count: mmap.mmap | None = None

    def start(self, now: float, server: ForkServer) -> None:
        """Start the process.

        Raises:
            OSError: this process lacks descriptors, memory or space on its disk.
        """
        with contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.callback(ours.close)
            with theirs, tempfile.TemporaryFile() as file:
                file.truncate(STEP_COUNT.size)
                self._step_count = mmap.mmap(file.fileno(), STEP_COUNT.size)
                descriptors = {"--parent-fd": theirs.fileno(), "--step-count-fd": file.fileno()}
                self.process = server.start(self.argv, descriptors)
            stack.pop_all()
        self.socket, self.start_at = ours, now

    @property
    def sid(self) -> bytes:
        """The session of the running process."""
        return self._read_step_count()[0]

    def _read_step_count(self) -> tuple[bytes, int]:
        assert self._step_count is not None
        sid, produced = STEP_COUNT.unpack_from(self._step_count)
        return sid, produced

    def reap(self, now: float) -> Exit | None:
        """The exit of the process if it has ended since the last call, else None; schedules the next start.

        A child that ended with success or with a wrong configuration is not restarted.
        """
        if self.process is None or self.process.poll() is None:
            return None
        assert self._step_count is not None and self.socket is not None
        end = Exit(self.number, self.process.wait(), *self._read_step_count())
        self._step_count.close()
        self.socket.close()
        self.process = self.socket = None
        if now - self.start_at > _STABLE_SECONDS:
            self._backoff.reset()
        if end.code in (EXIT_DONE, EXIT_CONFIGURATION):
            self.start_at = float("inf")
        else:
            self.postpone(now)
        return end

    def postpone(self, now: float) -> None:
        """Set the next start after a back-off."""
        self.start_at = now + self._backoff.next_seconds()


class ChildProcesses:
    """N actors with the same arguments. Owned by one thread."""

    def __init__(self, server: ForkServer, argv: list[str], count: int) -> None:
        self._server = server
        self.children = [Child(number, argv) for number in range(count)]
        self._restart = True

    def tick(self) -> list[Exit]:
        """Start the children that are due; return the exits since the last call."""
        now = time.monotonic()
        ends = []
        for child in self.children:
            end = child.reap(now)
            if end is not None:
                ends.append(end)
            if child.process is None and self._restart and now >= child.start_at:
                self._start(child, now)
        return ends

    def _start(self, child: Child, now: float) -> None:
        try:
            child.start(now, self._server)
        except OSError as error:
            log.warning("actor_not_started", actor=child.number, reason=str(error), next="trying again")
            child.postpone(now)

    @property
    def alive(self) -> int:
        """The number of children whose process runs."""
        return sum(child.process is not None and child.process.poll() is None for child in self.children)

    def sids(self) -> set[bytes]:
        """The sessions of the running children."""
        return {child.sid for child in self.children if child.process is not None}

    def stop(self) -> list[Exit]:
        """Terminate every child, wait, then kill the rest; return the exits of those that were forked."""
        self._restart = False
        running = {child.number: child.process for child in self.children if child.process is not None}
        if not any(process.forked for process in running.values()):
            self._server.close()  # the server may still be loading its modules, which takes seconds
        for process in running.values():
            process.terminate()
        children_per_core = max(1.0, len(running) / (os.cpu_count() or 1))
        deadline = time.monotonic() + min(_STOP_SECONDS * children_per_core, _MAX_STOP_SECONDS)
        for process in running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for process in running.values():  # kill all before waiting: those that still run share the cores
            process.kill()
        for process in running.values():
            process.wait()
        ends = [end for end in self.tick() if running[end.number].forked]
        self._server.close()
        return ends
