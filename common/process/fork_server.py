"""Processes that start in milliseconds: a server loads the modules once and forks a child for each request.

A new Python that imports torch costs 1.5 s of a core and 160 MB; a fork of a process that has imported it
costs milliseconds and shares that memory. The server has one thread, so a fork copies no held lock. It runs
in a process group of its own and ends when its owner is gone.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping

import structlog

from common.process.lifecycle import EXIT_INTERNAL

log = structlog.get_logger()

_REQUEST_BYTES = 65_536
_DESCRIPTORS = 16  # at most so many in one request
_STATUS = struct.Struct("=i")  # the process id, and after the end the exit code; minus the signal if killed
_FORK_SECONDS = 60.0  # for the server to load its modules and to fork; seconds on a machine that is not busy


class Forked:
    """A child of the server. Owned by one thread; the interface is that of `subprocess.Popen`."""

    def __init__(self, status: int) -> None:
        self._status = status  # descriptor of a pipe
        self._pid: int | None = None
        self.returncode: int | None = None

    @property
    def pid(self) -> int | None:
        """The process id; waits a bounded time for the fork. None if there is no process by then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._read_pid(_FORK_SECONDS)
        return self._pid

    @property
    def forked(self) -> bool:
        """Whether the process began; it has not while the server loads."""
        self.poll()
        return self._pid is not None

    def poll(self) -> int | None:
        """The exit code, or None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0.0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; returns the exit code.

        Raises:
            subprocess.TimeoutExpired: the process runs on.
        """
        while self.returncode is None:
            if self._pid is None:
                self._read_pid(timeout)
            else:
                self._end(self._read(timeout))
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens if the process has ended."""
        if self.pid is not None and self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask the process to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process."""
        self.send_signal(signal.SIGKILL)

    def _read_pid(self, timeout: float | None) -> None:
        """Read the process id if it is not known; a server that ended before the fork ends this child."""
        if self._pid is None and self.returncode is None:
            self._pid = self._read(timeout)
            if self._pid is None:
                self._end(EXIT_INTERNAL)

    def _read(self, timeout: float | None) -> int | None:
        """The next number from the server; None if the server is gone."""
        poller = select.poll()
        poller.register(self._status, select.POLLIN)
        if not poller.poll(None if timeout is None else timeout * 1000):
            raise subprocess.TimeoutExpired("forked process", timeout or 0.0)
        data = os.read(self._status, _STATUS.size)
        return _STATUS.unpack(data)[0] if data else None

    def _end(self, code: int | None) -> None:
        if code is None:  # the server is gone, and with it the way to learn the exit code
            assert self._pid is not None
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            code = -signal.SIGKILL
        self.returncode = code
        os.close(self._status)


class ForkServer:
    """The owner's end. The server starts with the first request if not before, and again if it died."""

    def __init__(self, module: str) -> None:
        self._module = module
        self.process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self, argv: list[str], descriptors: Mapping[str, int]) -> Forked:
        """Start a child; one that cannot be started ends with `EXIT_INTERNAL`.

        Args:
            argv: its arguments.
            descriptors: options to add to `argv`, each with the child's number of that descriptor.

        Raises:
            OSError: this process cannot start a server or make a pipe.
        """
        self.launch()
        assert self._control is not None
        ours, theirs = os.pipe()
        request = json.dumps({"argv": argv, "options": list(descriptors)}).encode()
        with contextlib.suppress(OSError):  # then the pipe ends without a process id
            socket.send_fds(self._control, [request], [theirs, *descriptors.values()])
        os.close(theirs)
        return Forked(ours)

    def launch(self) -> None:
        """Make sure that the server runs; it loads its modules while the owner does something else."""
        if self.process is not None and self.process.poll() is None:
            return
        self.close()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            argv = [sys.executable, "-m", self._module, str(theirs.fileno())]
            self.process = subprocess.Popen(  # noqa: S603  # our own module
                argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, process_group=0
            )

    def close(self) -> None:
        """End the server; its children run on."""
        if self._control is not None:
            self._control.close()
        if self.process is not None:
            self.process.terminate()  # it blocks this once it serves, and ends with the connection
            self.process.wait()
        self._control = self.process = None


def serve(control_fd: int) -> list[str]:
    """Fork a child for each request; returns in the children only, with the arguments of each.

    The server ends with the connection. Every module that the children share is loaded before this call.
    """
    control = socket.socket(fileno=control_fd)
    # systemd sends SIGTERM to every process of a service: the server outlives it, and a child receives what
    # was sent to it before it is ready.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    gc.collect()
    gc.freeze()  # a collection in a child would otherwise write to, and so copy, every shared page
    statuses: dict[int, int] = {}  # process id -> pipe
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(woken, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poller.poll()}
        if woken in ready:
            os.read(woken, 4096)
            _report_ended(statuses)
        if control.fileno() not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(control, _REQUEST_BYTES, _DESCRIPTORS)
        if not data:
            os._exit(0)
        request = json.loads(data)
        pid = _fork(1 + len(request["options"]), len(descriptors))
        if pid == 0:
            for descriptor in (woken, wake, descriptors[0], *statuses.values()):
                os.close(descriptor)
            control.close()
            _become_child()
            options = zip(request["options"], map(str, descriptors[1:]), strict=True)
            return [*request["argv"], *(word for option in options for word in option)]
        if pid is not None:
            statuses[pid] = descriptors.pop(0)
            _write(statuses[pid], pid)
        for descriptor in descriptors:  # without a child its pipe too, which tells the owner
            os.close(descriptor)


def _fork(expected_descriptors: int, descriptors: int) -> int | None:
    """Fork, if all descriptors of the request came; None if there is no child."""
    try:
        if descriptors != expected_descriptors:
            raise OSError(errno.EMFILE, f"expected {expected_descriptors} descriptors, got {descriptors}")
        return os.fork()
    except OSError as error:
        log.error("fork_failed", reason=str(error), next="the owner of the server may try again")
        return None


def _report_ended(statuses: dict[int, int]) -> None:
    """Write the exit code of every child that ended."""
    for pid in list(statuses):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            _write(statuses[pid], os.waitstatus_to_exitcode(status))
            os.close(statuses.pop(pid))


def _write(status: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the owner does not wait for it any more
        os.write(status, _STATUS.pack(number))


def _become_child() -> None:
    """Give the process the signals and the process group of a new one."""
    os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, which then stops its children
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
