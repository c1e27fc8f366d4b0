"""The weights bundle: the tensors that an actor needs to produce a chunk."""

from __future__ import annotations

from collections.abc import Mapping
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
        """The state of a module: the tensors under `prefix.`, named without it."""
        return under(prefix, self.tensors)

    def statistics(self, observation: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the observations.

        Args:
            observation: the shape of one observation. Arithmetic would broadcast statistics of another shape.

        Raises:
            ValueError: their shape or dtype differs.
        """
        mean, std = self.tensors["mean"], self.tensors["std"]
        for tensor in (mean, std):
            if tensor.shape != observation or tensor.dtype != torch.float32:
                raise ValueError(
                    f"expected float32 statistics of shape {observation}, got {tensor.dtype} of "
                    f"{tuple(tensor.shape)}"
                )
        return mean, std


def under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with `prefix.`, by the rest of their names."""
    start = prefix + "."
    return {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}
