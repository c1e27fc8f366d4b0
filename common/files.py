"""Atomic file writes."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the content of `path`; after a crash, the file has the old or the new content.

    Raises:
        OSError: the disk is full or broken; the old file is unchanged.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(data)
        _sync(temporary)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # a partial file on a full disk would block the next attempt
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
