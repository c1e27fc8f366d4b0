"""The rows of each minibatch of an update, and those that the predictor learns from."""

from __future__ import annotations

import torch
from torch import Tensor

from common.config import Config, PPOConfig


def draw_predictor_mask(rows: int, config: Config, generator: torch.Generator) -> Tensor:
    """Draw the rows that the predictor learns from, bool [epochs, rows], on the host; none if RND is off."""
    if not config.rnd.enabled:
        return torch.zeros(config.ppo.epochs, rows, dtype=torch.bool)
    return torch.rand(config.ppo.epochs, rows, generator=generator) < config.predictor_share


def draw_minibatches(
    predictor_mask: Tensor,
    steps: int,
    lanes: int,
    ppo: PPOConfig,
    generator: torch.Generator,
    device: torch.device,
) -> list[tuple[Tensor, Tensor]]:
    """Draw the rows of each minibatch, and those of them that the predictor learns from.

    A minibatch is a random set of steps, or without `shuffle` a block of whole lanes in order. The rows are
    drawn on the host and sent to the device in one copy, because every copy from the host waits for it.
    Steps that the number of minibatches does not divide, as those of a single chunk, leave a smaller one.

    Args:
        predictor_mask: rows that the predictor learns from, bool [epochs, T x E], on the host.
        steps: T.
        lanes: E.
        ppo: number of epochs and minibatches.
        generator: random generator on the host.
        device: device of the result.

    Returns:
        One pair of int64 arrays for each minibatch of each epoch.
    """
    size = max(1, steps * lanes // ppo.minibatches)
    lane_by_lane = torch.arange(steps * lanes).view(steps, lanes).t().reshape(-1)
    orders = [
        torch.randperm(steps * lanes, generator=generator) if ppo.shuffle else lane_by_lane
        for _ in range(ppo.epochs)
    ]
    selected_rows = [
        rows[mask[rows]]
        for order, mask in zip(orders, predictor_mask, strict=True)
        for rows in torch.split(order, size)
    ]
    all_rows = [rows for order in torch.stack(orders).to(device) for rows in torch.split(order, size)]
    predictor_rows = torch.split(torch.cat(selected_rows).to(device), [len(rows) for rows in selected_rows])
    return list(zip(all_rows, predictor_rows, strict=True))
