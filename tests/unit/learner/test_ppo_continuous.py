"""Updates of a Gaussian policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from common.config import RNDConfig
from learner.training.ppo import PPO
from tests.support.ppo_batches import CPU, TORQUES, E, Maker, T, batch_for, train, tuned


def gaussian_step(make_chunk: Maker, reward_of: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Run one update on many actions of one state.

    Args:
        make_chunk: the fixture.
        reward_of: rewards of standardised actions, [N, 2] -> [N].

    Returns:
        The changes of the state's mean and log standard deviation, [2] each.
    """
    config = replace(
        tuned(gamma_extrinsic=0.0, normalise_advantages=True, entropy_coef=0.0), rnd=RNDConfig(enabled=False)
    )
    ppo = PPO(config, TORQUES, CPU)
    batch = batch_for(ppo, config, make_chunk, spaces=TORQUES)
    batch = replace(batch, stack=batch.stack[:1, :1].expand_as(batch.stack).clone())
    stack = batch.stack[0, :1].movedim(-1, 1)

    def parameters() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            mean, log_std = ppo.policy(stack).distribution_parameters.chunk(2, 1)
        return mean[0].clone(), log_std[0].clone()

    mean, log_std = parameters()
    z = (batch.action.flatten(0, 1) - mean) * torch.exp(-log_std)
    train(ppo, replace(batch, reward=reward_of(z).float().view(T, E)))
    after, after_std = parameters()
    return after - mean, after_std - log_std


def to_one_side(sign: float, z: Tensor) -> Tensor:
    """1 where the first component is beyond the mean on the side of `sign`, -1 elsewhere."""
    return (z[:, 0] * sign > 0) * 2.0 - 1.0


def in_the_tails(sign: float, z: Tensor) -> Tensor:
    """`sign` where the components are far from the mean, 0 elsewhere."""
    return (z.abs().mean(1) > 0.8) * sign


def test_a_gaussian_policy_moves_its_mean_towards_rewarded_actions(make_chunk: Maker) -> None:
    for sign in (1.0, -1.0):
        moved, _ = gaussian_step(make_chunk, partial(to_one_side, sign))
        assert moved[0] * sign > 2 * moved[1].abs()


def test_a_gaussian_policy_widens_if_its_tails_are_rewarded_and_narrows_if_they_are_punished(
    make_chunk: Maker,
) -> None:
    for sign in (1.0, -1.0):
        _, spread = gaussian_step(make_chunk, partial(in_the_tails, sign))
        assert (spread * sign > 0).all()


def test_actor_and_learner_compute_the_same_gaussian_log_probs(make_chunk: Maker) -> None:
    config = tuned(epochs=1, minibatches=1)
    ppo = PPO(config, TORQUES, CPU)
    figures = train(ppo, batch_for(ppo, config, make_chunk, spaces=TORQUES)).figures
    assert figures["actor_learner_log_prob_diff_max"] < 1e-5
    assert figures["clip_fraction"] == 0.0
    assert figures["entropy"] == pytest.approx(2 * 0.5 * math.log(2 * math.pi * math.e))
