"""The losses, one number per sample; averaging is the caller's."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_policy_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Pessimistic policy loss.

        r = exp(log_prob - old_log_prob)
        loss = max(-A r, -A clip(r, 1 - eps, 1 + eps))

    Args, float32 [N]:
        log_prob, old_log_prob: of the taken actions, now and at the start of the batch.
        advantage: of the taken actions.
        clip: eps, half-width of the ratio.

    Returns:
        float32 [N].

    Source: Schulman et al. 2017, eq. 7, arXiv:1707.06347. Actions of an older policy are weighed by
    the caller: Hilton et al. 2021, eq. 3, arXiv:2110.00641.
    """
    ratio = torch.exp(log_prob - old_log_prob)
    return torch.maximum(-advantage * ratio, -advantage * torch.clamp(ratio, 1 - clip, 1 + clip))


def value_loss(value: Tensor, target: Tensor) -> Tensor:
    """Half the squared error, unclipped, float32 [N]. Source: Burda et al. 2018, code."""
    return 0.5 * (value - target).square()
