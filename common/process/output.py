"""Handles output into a closed pipe, as in `command | head`."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import TextIO


def discard_if_closed(stream: TextIO) -> bool:
    """Discard the buffer and all later output if the pipe has no reader; return whether it has none."""
    try:
        descriptor = stream.fileno()
    except OSError:  # a stream without a file, as in a test
        return False
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    closed = any(events & select.POLLERR for _, events in poller.poll(0))
    if closed:
        with Path(os.devnull).open("wb") as null:
            os.dup2(null.fileno(), descriptor)
    return closed
