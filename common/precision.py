"""Which arithmetic this processor is good at, and how torch is set up for it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from pathlib import Path

import torch

_MALLOC_TRIM_THRESHOLD = -1  # mallopt parameters, <malloc.h>
_MALLOC_MMAP_THRESHOLD = -3
_MALLOC_ARENA_MAX = -8
_KEEP_BYTES = 1 << 30


@functools.cache
def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively; emulated, it is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def autocast(precision: str, device: str = "cpu") -> contextlib.AbstractContextManager[object]:
    """Matrix products in bfloat16 where `precision` resolves to it; everything else unchanged."""
    if precision == "bfloat16" or (precision == "auto" and (device != "cpu" or has_bfloat16())):
        return torch.autocast(device, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def configure_torch(threads: int | None = None) -> None:
    """Set the thread count, and let the allocator keep large blocks instead of returning them.

    Without a count torch decides: OMP_NUM_THREADS, else one thread per core.

    Activations of tens of MiB come and go thousands of times; mapping them anew each time costs a
    page fault per 4 KiB (measured: 35 % of training speed). One arena for all threads, because those
    of other threads give their blocks back whatever is set (measured: 21 % of decoding). Call it before
    threads start. Without glibc nothing is changed.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MALLOC_MMAP_THRESHOLD, _KEEP_BYTES)
        libc.mallopt(_MALLOC_TRIM_THRESHOLD, _KEEP_BYTES)
        libc.mallopt(_MALLOC_ARENA_MAX, 1)
