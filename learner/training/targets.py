"""Training targets of one batch: advantages, value targets and importance weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import Config
from learner.training.advantages import MAX_LOG_RATIO, extrinsic_ends, importance, vtrace
from learner.training.batch import Batch

_MIN_VARIANCE = 1e-12  # of targets; below it the explained variance is undefined
WEIGHT_CAP = 2.0  # of a stale action's weight in the policy loss; the share at the cap is reported


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """Outputs of the networks for a batch before the update, float32."""

    log_prob: Tensor  # [T, E], of the taken actions
    extrinsic: Tensor  # [T + 1, E]
    intrinsic: Tensor  # [T + 1, E]
    final_extrinsic: Tensor  # [K], of the last observation of each truncated episode


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Constants of the losses during one update, float32 [T, E] each."""

    advantage: Tensor  # weighted sum of both streams
    extrinsic: Tensor
    intrinsic: Tensor
    weight: Tensor  # of the policy loss; 1 at lag 0


def compute_targets(batch: Batch, values: Values, config: Config) -> Targets:
    """Compute the advantages of both reward streams with one set of importance ratios.

    The extrinsic stream ends with the episode and bootstraps at a time limit; the intrinsic stream
    continues through every end (Burda et al. 2018, section 2.3). At lag 0 the targets are those of PPO
    with GAE; above it, decoupled PPO (Hilton et al. 2021) and V-trace (Espeholt et al. 2018).
    """
    ppo = config.ppo
    lag = batch.lag if ppo.correct_lag else torch.zeros_like(batch.lag)
    rho = importance(values.log_prob, batch.log_prob, lag)
    next_value = values.extrinsic[1:].masked_scatter(batch.truncated, values.final_extrinsic)
    terminated = batch.terminated | batch.life_lost if config.env.life_loss_is_end else batch.terminated
    discount, trace = extrinsic_ends(
        terminated, batch.truncated, ppo.gamma_extrinsic, ppo.gae_lambda, config.env.time_limit_is_end
    )
    advantage, target = vtrace(batch.reward, values.extrinsic[:-1], next_value, discount, trace, rho)
    advantage = ppo.coef_extrinsic * advantage
    target_intrinsic = torch.zeros_like(target)
    if config.rnd.enabled:
        value, next_value = values.intrinsic[:-1], values.intrinsic[1:]
        discount = torch.full_like(value, ppo.gamma_intrinsic)
        advantage_intrinsic, target_intrinsic = vtrace(
            batch.intrinsic, value, next_value, discount, discount * ppo.gae_lambda, rho
        )
        advantage = advantage + ppo.coef_intrinsic * advantage_intrinsic
    return Targets(advantage, target, target_intrinsic, rho.clamp(max=WEIGHT_CAP))


def explained_variance(values: Values, targets: Targets) -> dict[str, Tensor]:
    """Share of the targets' variance that each value head predicts, in [-1, 1]; 0 for constant targets."""
    heads = {
        "extrinsic": (values.extrinsic[:-1], targets.extrinsic),
        "intrinsic": (values.intrinsic[:-1], targets.intrinsic),
    }
    shares = {}
    for head, (value, target) in heads.items():
        variance = target.var(correction=0)
        unexplained = (target - value).var(correction=0) / variance.clamp(min=_MIN_VARIANCE)
        shares[f"explained_variance_{head}"] = torch.where(
            variance > _MIN_VARIANCE, (1.0 - unexplained).clamp(min=-1.0), 0.0
        )
    return shares


def staleness(batch: Batch, values: Values, targets: Targets) -> dict[str, Tensor]:
    """Measure how far the batch is from the policy before the update, one number per name.

    `actor_learner_log_prob_diff_max`: largest difference between the log-probabilities that actor and
        learner compute for actions of lag 0; a large value means that their arithmetic differs.
    `kl_behaviour`: estimated KL divergence from the acting policy, in nats.
    `weight_capped`: share of importance weights at the cap.
    `effective_samples`: effective sample size per sample, (sum w)^2 / (n sum w^2).
    """
    log_ratio = values.log_prob - batch.log_prob
    weight = targets.weight
    return {
        "actor_learner_log_prob_diff_max": torch.where(batch.lag == 0, log_ratio.abs(), 0.0).max(),
        "kl_behaviour": (log_ratio.clamp(max=MAX_LOG_RATIO).exp() - 1 - log_ratio).mean(),
        "weight_capped": (weight >= WEIGHT_CAP).float().mean(),
        "effective_samples": weight.sum().square() / (weight.numel() * weight.square().sum()),
    }
