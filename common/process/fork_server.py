"""A fork server: it loads the modules once, and forks a child for each request within milliseconds.

A new Python process that imports torch takes 1.5 s of a core and 160 MB. A fork of a process that has
imported it takes milliseconds and shares that memory. The server has one thread, so a fork copies no held
lock. It runs in a process group of its own and ends when its owner ends.
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
_MAX_DESCRIPTORS = 16  # in one request
_STATUS = struct.Struct("=i")  # first the process id; later the exit code, or minus the signal that killed it
_FORK_SECONDS = 60.0  # the longest wait for the server to load its modules and fork


class ForkedProcess:
    """A child of the server, with the interface of `subprocess.Popen`. Owned by one thread."""

    def __init__(self, status: int) -> None:
        self._status = status  # descriptor of a pipe
        self._pid: int | None = None
        self.returncode: int | None = None

    @property
    def pid(self) -> int | None:
        """The process id, after a bounded wait for the fork; None without a fork in that time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._read_pid(_FORK_SECONDS)
        return self._pid

    @property
    def forked(self) -> bool:
        """Whether the server has forked the process."""
        self.poll()
        return self._pid is not None

    def poll(self) -> int | None:
        """The exit code, or None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0.0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the exit code.

        Raises:
            subprocess.TimeoutExpired: the process still runs.
        """
        while self.returncode is None:
            if self._pid is None:
                self._read_pid(timeout)
            else:
                self._record_exit(self._read(timeout))
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.pid is not None and self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _read_pid(self, timeout: float | None) -> None:
        """Read the process id if it is not known; the exit code is `EXIT_INTERNAL` if there is no process."""
        if self._pid is None and self.returncode is None:
            self._pid = self._read(timeout)
            if self._pid is None:
                self._record_exit(EXIT_INTERNAL)

    def _read(self, timeout: float | None) -> int | None:
        """The next number from the server; None if the server has ended."""
        poller = select.poll()
        poller.register(self._status, select.POLLIN)
        if not poller.poll(None if timeout is None else timeout * 1000):
            raise subprocess.TimeoutExpired("forked process", timeout or 0.0)
        data = os.read(self._status, _STATUS.size)
        return _STATUS.unpack(data)[0] if data else None

    def _record_exit(self, code: int | None) -> None:
        """Store the exit code; without one, kill the process first."""
        if code is None:  # the server has ended, so no process can read the exit code of its child
            assert self._pid is not None
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            code = -signal.SIGKILL
        self.returncode = code
        os.close(self._status)


class ForkServer:
    """The owner's end of a fork server, which starts with the first request, and again if it has ended."""

    def __init__(self, module: str) -> None:
        self._module = module
        self.process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self, argv: list[str], descriptors: Mapping[str, int]) -> ForkedProcess:
        """Start a child. If the server cannot fork it, its exit code is `EXIT_INTERNAL`.

        Args:
            argv: its arguments.
            descriptors: file descriptors by option; the child receives each option with its own descriptor.

        Raises:
            OSError: this process cannot start a server or make a pipe.
        """
        self.launch()
        assert self._control is not None
        ours, theirs = os.pipe()
        request = json.dumps({"argv": argv, "options": list(descriptors)}).encode()
        with contextlib.suppress(OSError):  # the pipe then ends without a process id
            socket.send_fds(self._control, [request], [theirs, *descriptors.values()])
        os.close(theirs)
        return ForkedProcess(ours)

    def launch(self) -> None:
        """Start the server if it does not run; it loads its modules in the background."""
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
        """End the server; its children keep running."""
        if self._control is not None:
            self._control.close()
        if self.process is not None:
            self.process.terminate()  # works while it loads; later it blocks SIGTERM and ends with the socket
            self.process.wait()
        self._control = self.process = None


def serve(control_fd: int) -> list[str]:
    """Fork a child for each request; the function returns only in a child, with that child's arguments.

    The server ends when its owner closes the socket. The caller loads the modules that the children share.
    """
    control = socket.socket(fileno=control_fd)
    # systemd sends SIGTERM to every process of a service. The server blocks it, so that it outlives its
    # children. A new child unblocks it when it is ready, and then receives a SIGTERM that was sent before.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    gc.collect()
    gc.freeze()  # otherwise a garbage collection in a child would write to every shared page, and copy it
    statuses: dict[int, int] = {}  # process id -> pipe
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(wake_reader, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poller.poll()}
        if wake_reader in ready:
            os.read(wake_reader, 4096)
            _report_ended(statuses)
        if control.fileno() not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(control, _REQUEST_BYTES, _MAX_DESCRIPTORS)
        if not data:
            os._exit(0)
        request = json.loads(data)
        pid = _fork(1 + len(request["options"]), len(descriptors))
        if pid == 0:
            for descriptor in (wake_reader, wake_writer, descriptors[0], *statuses.values()):
                os.close(descriptor)
            control.close()
            _become_child()
            options = zip(request["options"], map(str, descriptors[1:]), strict=True)
            return [*request["argv"], *(word for option in options for word in option)]
        if pid is not None:
            statuses[pid] = descriptors.pop(0)
            _send_status(statuses[pid], pid)
        for descriptor in descriptors:  # also the pipe if there is no child: its end-of-file tells the owner
            os.close(descriptor)


def _fork(expected_descriptors: int, descriptors: int) -> int | None:
    """Fork if all descriptors of the request arrived; return None if there is no child."""
    try:
        if descriptors != expected_descriptors:
            raise OSError(errno.EMFILE, f"expected {expected_descriptors} descriptors, got {descriptors}")
        return os.fork()
    except OSError as error:
        log.error("fork_failed", reason=str(error), next=f"the child gets exit code {EXIT_INTERNAL}")
        return None


def _report_ended(statuses: dict[int, int]) -> None:
    """Write the exit code of every child that ended."""
    for pid in list(statuses):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            _send_status(statuses[pid], os.waitstatus_to_exitcode(status))
            os.close(statuses.pop(pid))


def _send_status(status: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the owner has stopped waiting for it
        os.write(status, _STATUS.pack(number))


def _become_child() -> None:
    """Give the forked process its own process group, and restore the default signal handling."""
    os.setpgid(0, 0)  # Ctrl-C reaches only the parent, which then stops its children
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
