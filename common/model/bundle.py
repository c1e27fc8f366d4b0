"""The weights bundle: everything an actor needs to produce a chunk."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """The weights and the observation statistics of one version.

    The tensors are float32: `policy.*`, `predictor.*` (with a bonus), and `mean` and `std` of the
    observations, in the shape of one observation.
    """

    generation: int
    version: int
    tensors: dict[str, torch.Tensor]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors under `prefix.`, without it: a module's state."""
        head = prefix + "."
        return {name[len(head) :]: value for name, value in self.tensors.items() if name.startswith(head)}
