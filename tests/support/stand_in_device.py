"""A stand-in for an accelerator: tensors that report another device and compute on the CPU.

As on CUDA, an operation on tensors of two devices raises, and so does `numpy()` of a device tensor. Waits
of the host for the device and copies from the host to the device are counted by source line. It shows
nothing about kernels, autocast or speed. The reported device is "meta", because every build of torch has
its device guard.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
_ROOT = Path(__file__).parents[2]
_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal"}  # the host needs their values
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
_FUSED = "_get_fused_kernels_supported_devices"


class _DeviceTensor(torch.Tensor):
    """A tensor on the stand-in device; `on_host` holds its numbers."""

    on_host: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> _DeviceTensor:
        made: _DeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        made.on_host = values
        return made

    @property
    def is_meta(self) -> bool:  # type: ignore[override]  # torch has an attribute
        """False: unlike a tensor of torch's own meta device it has values."""
        return False

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """Raise as a CUDA tensor does."""
        raise TypeError("expected a tensor on the host, got one on the device: call .cpu() first")

    def tolist(self) -> Any:
        """One copy to the host, as torch does it."""
        return self.cpu().tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"_DeviceTensor({list(self.shape)})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares another signature
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"expected {func} within the block of stand_in_device, got it outside")


class StandInDevice(TorchDispatchMode):
    """Runs every operation; counts by "operation at file:line"."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()  # of the host, copies to the host included
        self.uploads: Counter[str] = Counter()  # copies from the host to the device

    def reset(self) -> None:
        """Count from zero."""
        self.waits.clear()
        self.uploads.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, options = func.overloadpacket.__name__, dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, options)) if isinstance(x, torch.Tensor)]
        on_device = any(isinstance(x, _DeviceTensor) for x in tensors)
        wanted = options.get("device")
        if name == "copy_":
            wanted = tensors[0].device
        result_on_device = on_device if wanted is None else torch.device(wanted).type == DEVICE.type
        if name in ("_to_copy", "copy_"):
            self._count_copy(name, isinstance(tensors[-1], _DeviceTensor), result_on_device)
        elif on_device:
            self._count(name, tensors)
        if result_on_device and options.get("generator") is not None:
            raise RuntimeError(f"expected a generator of the device in {name}, got one of the host")
        if wanted is not None and "device" in options:
            options["device"] = torch.device("cpu")
        result = func(*tree_map(_values, args), **tree_map(_values, options))
        if name.endswith("_"):  # in place: the caller keeps its tensor, or its list of tensors
            return args[0] if isinstance(args[0], torch.Tensor) else None
        if not result_on_device:
            return result
        return tree_map(lambda x: _DeviceTensor(x) if isinstance(x, torch.Tensor) else x, result)

    def _count_copy(self, name: str, from_device: bool, to_device: bool) -> None:
        if from_device and not to_device:
            self.waits[_at(name)] += 1
        if to_device and not from_device:
            self.uploads[_at(name)] += 1

    def _count(self, name: str, tensors: list[torch.Tensor]) -> None:
        """Count what waits or uploads implicitly; refuse two devices. A number without dimensions may mix."""
        foreign = [x for x in tensors if not isinstance(x, _DeviceTensor) and x.dim() > 0]
        if foreign and name not in _INDEXING:
            shapes = [list(x.shape) for x in foreign]
            raise RuntimeError(f"expected all tensors of {name} on one device, got {shapes} on the host")
        if foreign:
            self.uploads[_at(name)] += 1  # an index on the host is allowed, and copied
        if name in _WAITS or (name in _INDEXING and any(x.dtype == torch.bool for x in tensors[1:])):
            self.waits[_at(name)] += 1


def _values(x: Any) -> Any:
    return x.on_host if isinstance(x, _DeviceTensor) else x


def _at(name: str) -> str:
    """The operation and the newest line of this repository outside this file."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(_ROOT) and path != Path(__file__) and ".venv" not in path.parts:
            return f"{name} at {path.relative_to(_ROOT)}:{frame.lineno}"
    return name


@contextlib.contextmanager
def stand_in_device() -> Iterator[StandInDevice]:
    """Make `DEVICE` an accelerator within the block, and restore torch after it."""
    with (
        # Adam refuses devices without fused kernels, and autocast refuses devices that it does not support.
        mock.patch(f"torch.optim.optimizer.{_FUSED}", lambda: ["cpu", DEVICE.type]),
        mock.patch("torch.is_autocast_enabled", lambda *_: False),
        StandInDevice() as device,
    ):
        yield device
