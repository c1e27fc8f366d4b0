"""Sets the number of training threads and the limit of open file descriptors."""

from __future__ import annotations

import contextlib
import math
import os
import resource
from pathlib import Path

import structlog
import torch

from common.config import NetworkConfig
from common.spaces import Spaces

log = structlog.get_logger()

_CGROUPS = Path("/sys/fs/cgroup")
_SMALL_HIDDEN = 256  # up to this width, a layer takes less time than a thread barrier on busy cores
_SESSION_DESCRIPTORS = 2  # of a remote session: one connection for data, one for weights
_OWN_DESCRIPTORS = 64  # kept for files, page and metrics


def apply_limits(spaces: Spaces, network: NetworkConfig) -> None:
    """Set the threads of this process and its limit of descriptors, and log both."""
    threads = training_threads(spaces, network, usable_cores(), os.environ.get("OMP_NUM_THREADS"))
    if threads is not None:
        torch.set_num_threads(threads)
    descriptors = raise_descriptor_limit()
    log.info(
        "learner_limits",
        threads=torch.get_num_threads(),
        descriptors=descriptors,
        remote_sessions=sessions_that_fit(descriptors),
    )


def training_threads(
    spaces: Spaces, network: NetworkConfig, cores: int, omp_num_threads: str | None
) -> int | None:
    """Return the number of training threads; None keeps PyTorch's choice.

    CartPole trains 3,312 steps/s with one thread and 3,038 with two on two idle cores, but 157 with two
    when other processes use the cores.

    Args:
        spaces: those of the environment; images need large networks.
        network: contains the width of networks on vectors.
        cores: the number of cores that this process may use.
        omp_num_threads: the environment variable of this name, which PyTorch obeys.
    """
    if omp_num_threads:
        return None
    return cores if spaces.is_image or network.hidden > _SMALL_HIDDEN else 1


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


def raise_descriptor_limit() -> int:
    """Raise the limit of open descriptors to the hard limit; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems refuse their own hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


def sessions_that_fit(descriptors: int) -> int:
    """Return the number of remote sessions that a learner with this many descriptors can serve."""
    return max(0, (descriptors - _OWN_DESCRIPTORS) // _SESSION_DESCRIPTORS)
