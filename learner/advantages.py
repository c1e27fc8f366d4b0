"""Advantages, as pure functions of whole chunks."""

from __future__ import annotations

from torch import Tensor


def gae(reward: Tensor, value: Tensor, next_value: Tensor, discount: Tensor, trace: Tensor) -> Tensor:
    """Score each action against the value baseline, smoothed back through time.

        delta[t] = reward[t] + discount[t] * next_value[t] - value[t]
        adv[t]   = delta[t] + trace[t] * adv[t + 1],   adv[T] = 0

    Ends are data, not flags: the extrinsic stream zeroes `discount` at a death and `trace` at
    every end, the intrinsic stream never does; both call this function.

    Args, all float32 [T, B]:
        reward: paid for the action at t.
        value: V(s_t).
        next_value: V of the state the action led to, before any reset.
        discount: gamma, or 0 where that state is terminal.
        trace: gamma * lambda, or 0 where row t + 1 is another episode.

    Returns:
        Advantages, float32 [T, B].

    Raises:
        ValueError: the five shapes differ.

    Source: Schulman et al. 2016, eq. 16, arXiv:1506.02438.
    """
    shapes = {tuple(x.shape) for x in (reward, value, next_value, discount, trace)}
    if len(shapes) != 1:
        raise ValueError(f"expected five arrays of one [T, B] shape, got {sorted(shapes)}")
    advantage = reward + discount * next_value - value
    for t in range(len(advantage) - 2, -1, -1):
        advantage[t] += trace[t] * advantage[t + 1]
    return advantage


def extrinsic_ends(
    terminated: Tensor, truncated: Tensor, gamma: float, lam: float, time_limit_is_end: bool
) -> tuple[Tensor, Tensor]:
    """Discount and trace of the stream that ends with the episode, float32 [T, B] each."""
    done = terminated | truncated
    cut = done if time_limit_is_end else terminated
    return gamma * (~cut).float(), gamma * lam * (~done).float()
