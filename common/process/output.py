"""Handles output into a closed pipe, as in `command | head`."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import TextIO


def discard_if_closed(stream: TextIO) -> bool:
    """If the reader of a pipe is gone, discard what is written to it, what waits in its buffer included."""
    try:
        descriptor = stream.fileno()
    except OSError:  # not a file, as in a test
        return False
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    closed = any(events & select.POLLERR for _, events in poller.poll(0))
    if closed:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), descriptor)
    return closed
