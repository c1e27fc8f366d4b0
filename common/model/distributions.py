"""The action distributions: log-probability, entropy and sampling. Pure functions.

Both distributions sample by inversion, from one uniform draw per component of an action, so the number of
draws does not depend on the policy.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from common.spaces import Spaces

_MINIMUM_DRAW = 2.0**-25  # half the spacing of float32 draws; keeps the normal quantile finite


class Distribution(Protocol):
    """An action distribution with rows of parameters, float32 [N, P]."""

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """The log-probability, or log-density, of one action per row, float32 [N]."""

    def entropy(self, parameters: Tensor) -> Tensor:
        """The entropy in nats, float32 [N]."""

    def sample(self, parameters: Tensor, uniform: Tensor) -> Tensor:
        """One action per row; `uniform`: draws in [0, 1), float32, in the shape of the actions."""

    def mode(self, parameters: Tensor) -> Tensor:
        """The most probable action of each row, with the shape and dtype of `sample`."""


class Categorical:
    """A categorical distribution over A actions; the parameters are logits [N, A]."""

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """See `Distribution`; action: int64 [N]."""
        return torch.log_softmax(parameters, 1).gather(1, action.unsqueeze(1)).squeeze(1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """See `Distribution`."""
        log_probs = torch.log_softmax(parameters, 1)
        return -(log_probs.exp() * log_probs).sum(1)

    def sample(self, parameters: Tensor, uniform: Tensor) -> Tensor:
        """The inverse of the cumulative distribution; int64 [N]."""
        cumulative = torch.softmax(parameters, 1).cumsum(1)
        # The draw is scaled by the total, which rounding may leave below 1: no draw may exceed it.
        above = (uniform.unsqueeze(1) * cumulative[:, -1:] >= cumulative).sum(1)
        return above.clamp_(max=parameters.shape[1] - 1)

    def mode(self, parameters: Tensor) -> Tensor:
        """See `Distribution`; int64 [N]."""
        return parameters.argmax(1)


class Gaussian:
    """A diagonal normal distribution; parameters are A means, then A log standard deviations, [N, 2 A]."""

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """See `Distribution`; action: float32 [N, A]."""
        mean, log_std = parameters.chunk(2, 1)
        z = (action - mean) * torch.exp(-log_std)
        return -(0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """See `Distribution`."""
        return (parameters.chunk(2, 1)[1] + 0.5 * math.log(2 * math.pi * math.e)).sum(1)

    def sample(self, parameters: Tensor, uniform: Tensor) -> Tensor:
        """The normal quantiles of the draws, scaled and shifted; float32 [N, A]."""
        mean, log_std = parameters.chunk(2, 1)
        normal: Tensor = torch.special.ndtri(uniform.clamp(_MINIMUM_DRAW, 1 - _MINIMUM_DRAW))
        return mean + log_std.exp() * normal

    def mode(self, parameters: Tensor) -> Tensor:
        """The mean; float32 [N, A]."""
        return parameters.chunk(2, 1)[0]


def distribution(spaces: Spaces) -> Distribution:
    """The distribution for the action space of an environment."""
    return Gaussian() if spaces.is_continuous else Categorical()
