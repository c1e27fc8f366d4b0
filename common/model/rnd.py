"""Random network distillation as pure functions, shared by the bonus and the predictor's loss."""

from __future__ import annotations

import torch
from torch import nn

_ROWS = 128  # per forward pass of the bonus, so that the activations fit in the core's cache
_CLIP = 5.0  # for RND: the bound of whitened observations (Burda et al. 2018, section 2.4)
POLICY_CLIP = 10.0  # for policies on vectors: larger, so that values that are rare at first stay distinct


def whiten(
    observation: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, clip: float = _CLIP
) -> torch.Tensor:
    """(observation - mean) / std, clipped to [-clip, clip].

    Args:
        observation: uint8 or float32 [N, ...].
        mean, std: float32, shape of one observation. No epsilon is added: a pixel that never changed
            has a tiny std, so its first change reaches the clip. This is intended.

    Returns:
        float32 [N, ...].

    Source: Burda et al. 2018, section 2.4, arXiv:1810.12894.
    """
    return ((observation.float() - mean) / std).clamp_(-clip, clip)


def prediction_error(prediction: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
    """Mean over features of the squared difference, float32 [N, F] x 2 -> [N].

    Source: Burda et al. 2018, section 2.2; the code takes the mean over the 512 outputs.
    """
    return (prediction.float() - feature.float()).square().mean(1)


def bonus(
    predictor: nn.Module, target: nn.Module, observation: torch.Tensor, mean: torch.Tensor, std: torch.Tensor
) -> torch.Tensor:
    """The prediction error of each whitened observation, [N, ...] -> float32 [N]."""
    parts = []
    for rows in torch.split(observation, _ROWS):
        x = whiten(rows, mean, std)
        parts.append(prediction_error(predictor(x), target(x)))
    return torch.cat(parts)
