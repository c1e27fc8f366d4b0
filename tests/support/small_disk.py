"""`python -m tests.support.small_disk ...`: runs `tests.support.witness` with a small disk as run directory.

The disk is a memory file system of 4 MiB in a mount namespace of this process; other processes reach it
as /proc/PID/root. It requires no privilege on systems where users may create namespaces.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

BYTES = 4 << 20
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000


def mount(path: Path) -> bool:
    """Mount the disk at `path` for this process and its children; False if that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) != 0:
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError:
        return False
    path.mkdir(parents=True, exist_ok=True)
    return bool(libc.mount(b"tmpfs", str(path).encode(), b"tmpfs", 0, f"size={BYTES}".encode()) == 0)


def possible(path: Path) -> bool:
    """Whether this process may mount the disk; a child process tries it."""
    child = os.fork()
    if child == 0:
        os._exit(0 if mount(path) else 1)
    return os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    mount(Path(sys.argv[sys.argv.index("--run-dir") + 1]))
    os.execv(sys.executable, [sys.executable, "-m", "tests.support.witness", *sys.argv[1:]])  # noqa: S606
