"""Files that a crash or a full disk leaves whole."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` so that a crash leaves the old file or the new one.

    Raises:
        OSError: the disk is full or broken; the old file is untouched.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(data)
        _sync(temporary)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # half a file on a full disk is in the way of the next try
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
