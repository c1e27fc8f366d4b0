"""The losses of single samples; the caller averages them."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_policy_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Compute the clipped surrogate loss of PPO.

        r = exp(log_prob - old_log_prob)
        loss = max(-A r, -A clip(r, 1 - eps, 1 + eps))

    Args, float32 [N]:
        log_prob, old_log_prob: of the taken actions, now and before the update.
        advantage: of the taken actions.
        clip: eps, half the width of the interval of unclipped ratios.

    Returns:
        float32 [N].

    Source: Schulman et al. 2017, eq. 7, arXiv:1707.06347. The caller multiplies the losses of stale
    actions by importance weights: Hilton et al. 2021, eq. 3, arXiv:2110.00641.
    """
    ratio = torch.exp(log_prob - old_log_prob)
    return torch.maximum(-advantage * ratio, -advantage * torch.clamp(ratio, 1 - clip, 1 + clip))


def value_loss(value: Tensor, target: Tensor) -> Tensor:
    """Compute half the squared error, not clipped, float32 [N]. Source: Burda et al. 2018, code."""
    return 0.5 * (value - target).square()
