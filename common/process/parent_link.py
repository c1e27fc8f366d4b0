"""An actor's link to the process that started it: a socket and a step count in shared memory.

The learner starts a local actor with both, and so does the parent of `--procs`. The end-of-file of the socket
tells the actor that its parent has ended. The parent can read the step count after the actor was killed.
Actors and the parent of `--procs` also exchange notes, which are JSON objects, over the socket.
"""

from __future__ import annotations

import json
import mmap
import select
import socket
import struct
from typing import Any

STEP_COUNT = struct.Struct("=16sQ")  # session, steps produced
_NOTE_BYTES = 16_384


class ParentLink:
    """The actor's end. An actor that a user starts has neither socket nor step count."""

    def __init__(self, socket_fd: int | None = None, step_count_fd: int | None = None) -> None:
        self._socket = None if socket_fd is None else socket.socket(fileno=socket_fd)
        self._step_count = None if step_count_fd is None else mmap.mmap(step_count_fd, STEP_COUNT.size)

    def fileno(self) -> int | None:
        """A descriptor that is readable when the parent sent a note or ended; None without a parent."""
        return None if self._socket is None else self._socket.fileno()

    def gone(self) -> bool:
        """Whether the parent has ended."""
        if self._socket is None:
            return False
        try:
            return self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    def write_step_count(self, sid: bytes, produced: int) -> None:
        """Write the steps that a session has produced where the parent can read them."""
        if self._step_count is not None:
            STEP_COUNT.pack_into(self._step_count, 0, sid, produced)

    def send(self, note: dict[str, Any]) -> None:
        """Send a note to the parent; drop it if the parent has ended or its queue is full."""
        if self._socket is not None:
            try:
                self._socket.send(json.dumps(note).encode(), socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionError):
                return

    def receive(self, timeout_seconds: float) -> dict[str, Any] | None:
        """The next note; None after the timeout or if the parent has ended."""
        assert self._socket is not None
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        poller.poll(timeout_seconds * 1000)
        try:
            note = self._socket.recv(_NOTE_BYTES, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionError):
            return None
        return json.loads(note) if note else None

    def close(self) -> None:
        """Close the socket and unmap the step count."""
        if self._socket is not None:
            self._socket.close()
        if self._step_count is not None:
            self._step_count.close()
