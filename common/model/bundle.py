"""The weights bundle: what an actor needs to play one chunk, all of one version."""

from __future__ import annotations

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
        """The tensors under `prefix.`, without it: a module's state."""
        head = prefix + "."
        return {name[len(head) :]: value for name, value in self.tensors.items() if name.startswith(head)}
