"""Reads and writes episodes.csv, which has one row for each finished episode of a run."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from common.files import write_atomically


class EpisodeRow(NamedTuple):
    """One finished episode; `env_steps` and `frames` are those of the run at the end of its update."""

    env_steps: int
    frames: int
    wall_seconds: float
    slot: int
    lane: int
    steps: int
    score: float


_HEADER = ",".join(EpisodeRow._fields)
_PARSERS = (int, int, float, int, int, int, float)


def read(file: Path) -> tuple[list[EpisodeRow], int]:
    """Read every row, and count the unreadable lines that a crash or a full disk has left.

    Raises:
        OSError: the file is missing or cannot be read.
    """
    *lines, rest = file.read_bytes().decode("utf-8", "replace").split("\n")
    rows, unreadable = [], int(rest != "")  # a line without its end may be incomplete
    for line in lines:
        if line.strip() == _HEADER:
            continue
        try:
            rows.append(_parse(line))
        except ValueError:
            unreadable += 1
    return rows, unreadable


def _parse(line: str) -> EpisodeRow:
    cells = zip(_PARSERS, line.split(","), strict=True)
    return EpisodeRow(*(parse(cell) for parse, cell in cells))


def replace(file: Path, rows: Iterable[EpisodeRow]) -> None:
    """Write a whole file in one step.

    Raises:
        OSError: the disk is full or broken; the earlier file is unchanged.
    """
    write_atomically(file, f"{_HEADER}\r\n".encode() + _lines(rows))


def open_to_append(file: Path) -> FileIO:
    """Open a file, without a buffer, for `append`.

    Raises:
        OSError: the disk is full or broken.
    """
    return file.open("ab", buffering=0)


def append(file: FileIO, rows: Iterable[EpisodeRow]) -> None:
    """Write rows at the end of the file.

    Raises:
        OSError: the disk is full or broken; the file may end within a row.
    """
    lines = _lines(rows)
    if file.write(lines) < len(lines):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _lines(rows: Iterable[EpisodeRow]) -> bytes:
    return "".join(f"{','.join(map(str, row))}\r\n" for row in rows).encode()
