"""What an update aims at: advantages, value targets and weights of one batch, from its values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import Config
from learner.training.advantages import extrinsic_ends, importance, vtrace
from learner.training.batch import Batch

_LEAST_SPREAD = 1e-12  # of targets; below it there is nothing to foretell
WEIGHT_CAP = 2.0  # of a stale action's weight in the policy loss; how many reach it is shown


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """What the networks that begin the update say about a batch, float32."""

    log_prob: Tensor  # [T, E], of the taken actions
    extrinsic: Tensor  # [T + 1, E]
    intrinsic: Tensor  # [T + 1, E]
    final_extrinsic: Tensor  # [K], of each observation that a time limit cut off


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What the losses compare with, float32 [T, E] each."""

    advantage: Tensor  # of both streams together
    extrinsic: Tensor
    intrinsic: Tensor
    weight: Tensor  # of the policy loss; 1 at lag 0


def targets(batch: Batch, values: Values, config: Config) -> Targets:
    """Two streams of advantages with one set of traces.

    The extrinsic stream ends with the episode and bootstraps at a time limit; the intrinsic one runs
    on through every end (Burda et al. 2018, section 2.3). At lag 0, PPO and GAE; above it, decoupled
    PPO (Hilton et al. 2021) and V-trace (Espeholt et al. 2018).
    """
    ppo = config.ppo
    lag = batch.lag if ppo.correct_lag else torch.zeros_like(batch.lag)
    rho = importance(values.log_prob, batch.log_prob, lag)
    next_value = values.extrinsic[1:].masked_scatter(batch.truncated, values.final_extrinsic)
    discount, trace = extrinsic_ends(
        batch.terminated, batch.truncated, ppo.gamma_extrinsic, ppo.gae_lambda, config.env.time_limit_is_end
    )
    advantage, target = vtrace(batch.reward, values.extrinsic[:-1], next_value, discount, trace, rho)
    advantage = ppo.coef_extrinsic * advantage
    target_intrinsic = torch.zeros_like(target)
    if config.rnd.enabled:
        value, next_value = values.intrinsic[:-1], values.intrinsic[1:]
        discount = torch.full_like(value, ppo.gamma_intrinsic)
        novelty, target_intrinsic = vtrace(
            batch.intrinsic, value, next_value, discount, discount * ppo.gae_lambda, rho
        )
        advantage = advantage + ppo.coef_intrinsic * novelty
    return Targets(advantage, target, target_intrinsic, rho.clamp(max=WEIGHT_CAP))


def explained(values: Values, aims: Targets) -> dict[str, Tensor]:
    """Share of the targets' variance that each value head foretold, in [-1, 1]; 0 where nothing varies."""
    heads = {
        "extrinsic": (values.extrinsic[:-1], aims.extrinsic),
        "intrinsic": (values.intrinsic[:-1], aims.intrinsic),
    }
    shares = {}
    for head, (value, target) in heads.items():
        spread = target.var(correction=0)
        left = (target - value).var(correction=0) / spread.clamp(min=_LEAST_SPREAD)
        shares[f"explained_variance_{head}"] = torch.where(
            spread > _LEAST_SPREAD, (1.0 - left).clamp(min=-1.0), 0.0
        )
    return shares


def staleness(batch: Batch, values: Values, aims: Targets) -> dict[str, Tensor]:
    """How far the batch is from the policy that begins the update, one number each.

    `actor_learner_log_prob_diff_max`: largest difference between the log-probabilities that actor and
    learner compute for actions of lag 0.
    `kl_behaviour`: estimated divergence, nats. `effective_samples`: (sum w)^2 / (n sum w^2).
    """
    log_ratio = values.log_prob - batch.log_prob
    weight = aims.weight
    return {
        "actor_learner_log_prob_diff_max": torch.where(batch.lag == 0, log_ratio.abs(), 0.0).max(),
        "kl_behaviour": (log_ratio.exp() - 1 - log_ratio).mean(),
        "weight_capped": (weight >= WEIGHT_CAP).float().mean(),
        "effective_samples": weight.sum().square() / (weight.numel() * weight.square().sum()),
    }
