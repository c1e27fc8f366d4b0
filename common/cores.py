"""The number of cores that a process may use."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return the number of cores that this process may use, by its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = math.inf
    with contextlib.suppress(OSError):
        quota = quota_cores(Path("/proc/self/cgroup").read_text(), _CGROUPS)
    return max(1, int(min(cores, quota)))


def quota_cores(membership: str, root: Path) -> float:
    """Return the least CPU quota of a cgroup and its parents, in cores; infinity without one.

    Args:
        membership: text of /proc/self/cgroup; version 2 is its line "0::/PATH".
        root: where the hierarchy is mounted; in a container often the container's own cgroup.

    Source: `cpu.max` of Linux's cgroup v2.
    """
    path = next((line[3:] for line in membership.splitlines() if line.startswith("0::")), "/")
    own = root / path.strip("/")
    quotas = [math.inf]
    for directory in (own, *(x for x in own.parents if x.is_relative_to(root))):
        with contextlib.suppress(OSError, ValueError):  # "max" stands for no quota
            microseconds, period = (directory / "cpu.max").read_text().split()
            quotas.append(int(microseconds) / int(period))
    return min(quotas)
