"""Counts emulator steps where they happen, apart from Outrider's own books.

On the path of a child process, Python imports this module first. Each process keeps its count in a
mapped file, which outlives a kill.
"""

import mmap
import os
import struct
from pathlib import Path
from typing import Any

import ale_py.vector_env

_directory = os.environ.get("STEP_COUNT_DIR")
if _directory:
    _path = Path(_directory) / str(os.getpid())
    _path.write_bytes(bytes(8))
    with _path.open("r+b") as _file:
        _count = mmap.mmap(_file.fileno(), 8)
    _step = ale_py.vector_env.AtariVectorEnv.step

    def _counted(self: Any, actions: Any) -> Any:
        result = _step(self, actions)
        struct.pack_into("=Q", _count, 0, struct.unpack_from("=Q", _count)[0] + len(actions))
        return result

    ale_py.vector_env.AtariVectorEnv.step = _counted  # type: ignore[method-assign]
