"""The samples of one update: a batch flattened to rows, with the constants of the losses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from learner.training.batch import Batch
from learner.training.targets import Targets


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """N = T x E rows in row-major order of (t, lane)."""

    stack: Tensor  # [N, ..., S]
    action: Tensor  # [N, ...]
    old_log_prob: Tensor  # float32 [N], under the policy before the update
    targets: Targets  # float32 [N] each
    next_observation: Tensor  # [N, ...], raw
    feature: Tensor  # of the target network, float32 [N, F]; zero where no epoch keeps the row
    predictor_mask: Tensor  # bool [epochs, N], on the host: rows that the predictor learns from


def make_samples(
    batch: Batch, log_prob: Tensor, targets: Targets, predictor_mask: Tensor, feature: Tensor
) -> Samples:
    """Flatten a batch; `log_prob` and `targets` are float32 [T, E], the rest has its final shape."""
    return Samples(
        stack=batch.stack[:-1].flatten(0, 1),
        action=batch.action.flatten(0, 1),
        old_log_prob=log_prob.flatten(),
        targets=Targets(*(getattr(targets, x.name).flatten() for x in dataclasses.fields(targets))),
        next_observation=batch.next_observation.flatten(0, 1),
        feature=feature,
        predictor_mask=predictor_mask,
    )
