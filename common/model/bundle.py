"""The weights bundle: what an actor needs to play one chunk, all of one version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """What an actor plays a chunk with, all of one version.

    Tensors, float32: `policy.*`, `predictor.*` (with a bonus), and `mean`, `std` of the
    observations, in the shape of one observation.
    """

    generation: int
    version: int
    tensors: dict[str, torch.Tensor]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return the tensors under `prefix.`, without it: the state of a module."""
        return under(prefix, self.tensors)


def under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with `prefix.`, by the rest of their names."""
    start = prefix + "."
    return {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}
