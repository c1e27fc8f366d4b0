"""Advantages and value targets as pure functions of time-major arrays."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0  # keeps the exponential finite; the caps of V-trace are far below e^20


def vtrace(
    reward: Tensor, value: Tensor, next_value: Tensor, discount: Tensor, trace: Tensor, rho: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute V-trace advantages and value targets; with rho = 1 they are those of GAE.

        delta[t]  = reward[t] + discount[t] * next_value[t] - value[t]
        adv[t]    = delta[t] + trace[t] * (target[t + 1] - value[t + 1]),   0 beyond T
        target[t] = value[t] + min(1, rho[t]) * adv[t]

    With rho = 1 this is GAE and its lambda-return, bit for bit; below 1 it is V-trace with both caps
    at 1. The advantage does not include the rho of its own step: the policy loss applies it.
    `discount` and `trace` encode the ends of episodes. The extrinsic stream sets `discount` to 0 at a
    termination and `trace` to 0 at every end; the intrinsic stream does neither.

    Args, all float32 [T, B]:
        reward: for the action at t.
        value: V(s_t).
        next_value: V of the state after the action, before any reset.
        discount: gamma, or 0 where that state is terminal.
        trace: gamma * lambda, or 0 where row t + 1 is another episode.
        rho: probability of the action under the present policy, divided by that under the acting policy.

    Returns:
        Advantages and value targets, float32 [T, B] each.

    Raises:
        ValueError: the six shapes differ.

    Source: Schulman et al. 2016, eq. 16, arXiv:1506.02438; Espeholt et al. 2018, eq. 1, arXiv:1802.01561.
    """
    shapes = {tuple(x.shape) for x in (reward, value, next_value, discount, trace, rho)}
    if len(shapes) != 1:
        raise ValueError(f"expected six arrays of one [T, B] shape, got {sorted(shapes)}")
    advantage = reward + discount * next_value - value
    rho = rho.clamp(max=1.0)
    for t in range(len(advantage) - 2, -1, -1):
        advantage[t] += trace[t] * (rho[t + 1] * advantage[t + 1])
    return advantage, value + rho * advantage


def extrinsic_ends(
    terminated: Tensor, truncated: Tensor, gamma: float, lam: float, time_limit_is_end: bool
) -> tuple[Tensor, Tensor]:
    """Return discount and trace of the extrinsic stream, which ends with the episode, float32 [T, B] each."""
    done = terminated | truncated
    terminal = done if time_limit_is_end else terminated
    return gamma * (~terminal).float(), gamma * lam * (~done).float()


def importance(log_prob: Tensor, behaviour_log_prob: Tensor, lag: Tensor) -> Tensor:
    """Compute the importance ratio of each action; it is exactly 1 where the lag is 0.

    Args:
        log_prob: of the actions under the policy before the update, float32 [T, B].
        behaviour_log_prob: of the actions under the policy that took them, float32 [T, B].
        lag: versions between the two policies, int64 [B].

    Returns:
        float32 [T, B].
    """
    difference = (log_prob - behaviour_log_prob).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.where(lag > 0, difference, 0.0).exp()
