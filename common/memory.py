"""Measures the memory in use against the limit of this container, or of the machine if it has none."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


class MemoryUse(NamedTuple):
    """Memory in use that cannot be freed without swapping, and the limit."""

    used_bytes: int
    limit_bytes: int


def memory_use(cgroup: Path = _CGROUP, meminfo: Path = _MEMINFO) -> MemoryUse | None:
    """Read the use of the container, or of the machine without a limit; None if the system does not tell."""
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        if limit != "max":
            cache_bytes = _numbers(cgroup / "memory.stat")["inactive_file"]
            used_bytes = int((cgroup / "memory.current").read_text()) - cache_bytes
            return MemoryUse(max(0, used_bytes), int(limit))
    except (OSError, KeyError, ValueError):
        pass  # no such control group: the limit is that of the machine
    try:
        machine = _numbers(meminfo)
        total_bytes = machine["MemTotal:"] * 1024
        return MemoryUse(total_bytes - machine["MemAvailable:"] * 1024, total_bytes)
    except (OSError, KeyError, ValueError):
        return None


def _numbers(file: Path) -> dict[str, int]:
    """Return the first number of each line, by the first word."""
    rows = (line.split() for line in file.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}
