"""The numeric precision of networks, and the process-wide settings of torch."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from pathlib import Path

import torch

from common.config import Precision

_CUDA_BFLOAT16 = (8, 0)  # compute capability of the first GPUs that multiply bfloat16 natively
_MALLOC_TRIM_THRESHOLD = -1  # mallopt parameters, <malloc.h>
_MALLOC_MMAP_THRESHOLD = -3
_MALLOC_ARENA_MAX = -8
_KEEP_BYTES = 1 << 30


@functools.cache
def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively; emulated bfloat16 is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """The precision of a run that trains on `device`; `auto` means bfloat16 if the device has it natively.

    The learner calls this once, at the start of a run; the result is part of the run's configuration.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":  # torch.cuda.is_bf16_supported() is true for emulation as well
        native = torch.cuda.get_device_capability(device) >= _CUDA_BFLOAT16
    else:
        native = has_bfloat16()
    return "bfloat16" if native else "float32"


def acting_precision(precision: Precision) -> Precision:
    """The precision of an actor in a run of `precision`: float32 where bfloat16 would be emulated.

    Emulated bfloat16 takes four times as long. The metric
    `outrider_train_actor_learner_log_prob_diff_max` shows the difference.

    Raises:
        ValueError: `precision` is not resolved.
    """
    _require_resolved(precision)
    return precision if has_bfloat16() else "float32"


def autocast(precision: Precision, device: str = "cpu") -> contextlib.AbstractContextManager[object]:
    """A context in which matrix products use `precision`.

    Raises:
        ValueError: `precision` is not resolved.
    """
    _require_resolved(precision)
    if precision == "bfloat16":
        return torch.autocast(device, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def _require_resolved(precision: Precision) -> None:
    if precision == "auto":
        raise ValueError("expected a resolved precision, got auto: call resolve_precision first")


def configure_torch(threads: int | None = None) -> None:
    """Set the number of threads, and let the memory allocator keep large blocks instead of returning them.

    Without `threads`, torch decides: OMP_NUM_THREADS, else one thread per core.

    Activations of tens of MiB are allocated thousands of times. To map them each time costs a page fault per
    4 KiB (measured: 35 % of the training speed). All threads share one arena, because other arenas return
    their blocks in spite of these settings (measured: 21 % of the decoding time). Call this before other
    threads start. Without glibc it only sets the number of threads.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MALLOC_MMAP_THRESHOLD, _KEEP_BYTES)
        libc.mallopt(_MALLOC_TRIM_THRESHOLD, _KEEP_BYTES)
        libc.mallopt(_MALLOC_ARENA_MAX, 1)
