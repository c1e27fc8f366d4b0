"""Sets the number of training threads and the limit of open file descriptors."""

from __future__ import annotations

import contextlib
import os
import resource

import structlog
import torch

from common.config import NetworkConfig
from common.cores import usable_cores
from common.spaces import Spaces

log = structlog.get_logger()

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
