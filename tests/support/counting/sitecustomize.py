"""Counts emulator steps in the process that makes them, independently of the ledger.

Python imports this module when a process starts whose path includes its directory. Each process, forked or
started, keeps its count in a mapped file, which remains after a kill.
"""

import mmap
import os
import struct
from functools import cache
from pathlib import Path
from typing import Any

from common.atari import AtariEnv

_step = AtariEnv.step


@cache
def _counter(pid: int) -> mmap.mmap:
    path = Path(os.environ["STEP_COUNT_DIR"]) / str(pid)
    path.write_bytes(bytes(8))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 8)


def _counted(self: Any, actions: Any) -> Any:
    result = _step(self, actions)
    count = _counter(os.getpid())
    struct.pack_into("=Q", count, 0, struct.unpack_from("=Q", count)[0] + len(actions))
    return result


if "STEP_COUNT_DIR" in os.environ:
    AtariEnv.step = _counted  # type: ignore[assignment, method-assign]
