"""What a policy's outputs say about actions: how likely one is, and how to draw one. Pure functions.

Both kinds are drawn from uniform numbers, so that a lane's stream is the same for either.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from common.spaces import Spaces

_LEAST = 2.0**-25  # half the distance of float32 draws: keeps the normal quantile finite


class Distribution(Protocol):
    """Reads rows of parameters, float32 [N, P]."""

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """Log-probability (or log-density) of one action per row, float32 [N]."""

    def entropy(self, parameters: Tensor) -> Tensor:
        """Entropy in nats, float32 [N]."""

    def sample(self, parameters: Tensor, uniform: Tensor) -> Tensor:
        """One action per row from uniform draws in [0, 1), float32 of an action's shape."""

    def mode(self, parameters: Tensor) -> Tensor:
        """The most probable action of each row, as `sample` gives it."""


class Categorical:
    """One of A actions; parameters are logits [N, A]."""

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """See `Distribution`; action: int64 [N]."""
        return torch.log_softmax(parameters, 1).gather(1, action.unsqueeze(1)).squeeze(1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """See `Distribution`."""
        log_probs = torch.log_softmax(parameters, 1)
        return -(log_probs.exp() * log_probs).sum(1)

    def sample(self, parameters: Tensor, uniform: Tensor) -> Tensor:
        """Invert the cumulative distribution; int64 [N]."""
        cumulative = torch.softmax(parameters, 1).cumsum(1)
        # Scaled to the total, so that rounding can leave no draw beyond the last action.
        above = (uniform.unsqueeze(1) * cumulative[:, -1:] >= cumulative).sum(1)
        return above.clamp_(max=parameters.shape[1] - 1)

    def mode(self, parameters: Tensor) -> Tensor:
        """See `Distribution`; int64 [N]."""
        return parameters.argmax(1)


class Gaussian:
    """Independent normal numbers; parameters are A means, then A logarithms of deviations, [N, 2 A]."""

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """See `Distribution`; action: float32 [N, A]."""
        mean, log_std = parameters.chunk(2, 1)
        z = (action - mean) * torch.exp(-log_std)
        return -(0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """See `Distribution`."""
        return (parameters.chunk(2, 1)[1] + 0.5 * math.log(2 * math.pi * math.e)).sum(1)

    def sample(self, parameters: Tensor, uniform: Tensor) -> Tensor:
        """Normal quantiles of the draws, shifted and scaled; float32 [N, A]."""
        mean, log_std = parameters.chunk(2, 1)
        normal: Tensor = torch.special.ndtri(uniform.clamp(_LEAST, 1 - _LEAST))
        return mean + log_std.exp() * normal

    def mode(self, parameters: Tensor) -> Tensor:
        """The mean; float32 [N, A]."""
        return parameters.chunk(2, 1)[0]


def distribution(spaces: Spaces) -> Distribution:
    """The kind that fits the actions of a task."""
    return Gaussian() if spaces.is_continuous else Categorical()
