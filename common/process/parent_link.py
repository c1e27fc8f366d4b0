"""An actor's link to the process that started it: a socket and a step count in shared memory.

The learner starts a local actor with both, and so does the parent of `--procs`. When the parent ends, the
actor reads an end-of-file from the socket. After the actor is killed, the parent can still read its step
count. Actors and the parent of `--procs` also exchange notes, which are JSON objects, over the socket.
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


def send_note(link: socket.socket, note: dict[str, Any]) -> bool:
    """Send a note without waiting; False if the other end is closed or its queue is full."""
    try:
        link.send(json.dumps(note).encode(), socket.MSG_DONTWAIT)
    except (BlockingIOError, ConnectionError):
        return False
    return True


def receive_note(link: socket.socket) -> dict[str, Any] | None:
    """The next note, without waiting; None if there is none or the other end is closed."""
    try:
        data = link.recv(_NOTE_BYTES, socket.MSG_DONTWAIT)
    except (BlockingIOError, ConnectionError):
        return None
    note = json.loads(data) if data else None
    return note if isinstance(note, dict) else None


class ParentLink:
    """The actor's end of the link. An actor that a user starts has neither socket nor step count."""

    def __init__(self, socket_fd: int | None = None, step_count_fd: int | None = None) -> None:
        self._socket = None if socket_fd is None else socket.socket(fileno=socket_fd)
        self._step_count = None if step_count_fd is None else mmap.mmap(step_count_fd, STEP_COUNT.size)

    def fileno(self) -> int | None:
        """A file descriptor that is readable after a note or the parent's end; None without a parent."""
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
            send_note(self._socket, note)

    def receive(self, timeout_seconds: float) -> dict[str, Any] | None:
        """The next note; None after the timeout or if the parent has ended."""
        assert self._socket is not None
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        poller.poll(timeout_seconds * 1000)
        return receive_note(self._socket)

    def close(self) -> None:
        """Close the socket and unmap the step count."""
        if self._socket is not None:
            self._socket.close()
        if self._step_count is not None:
            self._step_count.close()
