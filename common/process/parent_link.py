"""The ties between an actor and the process that started it: liveness, notes, and a step count.

A learner starts local actors with a socket, whose end-of-file says that the learner is gone, and a
small shared file, in which the actor keeps its step count: the learner can read it after a kill.
The parent of `--procs` has the socket too, and exchanges notes over it.
"""

from __future__ import annotations

import json
import mmap
import select
import socket
import struct
from typing import Any

TALLY = struct.Struct("=16sQ")  # session, steps produced
_NOTE_BYTES = 16_384


class ParentLink:
    """Both ties may be absent: an actor started by hand has none."""

    def __init__(self, socket_fd: int | None = None, tally_fd: int | None = None) -> None:
        self._socket = None if socket_fd is None else socket.socket(fileno=socket_fd)
        self._tally = None if tally_fd is None else mmap.mmap(tally_fd, TALLY.size)

    def fileno(self) -> int | None:
        """Readable when the parent wrote a note or is gone."""
        return None if self._socket is None else self._socket.fileno()

    def gone(self) -> bool:
        """Whether the parent ended."""
        if self._socket is None:
            return False
        try:
            return self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    def write_step_count(self, sid: bytes, produced: int) -> None:
        """Write down the step count."""
        if self._tally is not None:
            TALLY.pack_into(self._tally, 0, sid, produced)

    def send(self, note: dict[str, Any]) -> None:
        """Tell the parent something; dropped if it does not listen."""
        if self._socket is not None:
            try:
                self._socket.send(json.dumps(note).encode(), socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionError):
                return

    def receive(self, timeout_seconds: float) -> dict[str, Any] | None:
        """The next note, or None."""
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
        """Let go of both."""
        if self._socket is not None:
            self._socket.close()
        if self._tally is not None:
            self._tally.close()
