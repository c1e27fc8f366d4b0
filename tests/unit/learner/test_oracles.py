"""Results that are known in closed form, or by a slow computation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from random import Random

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from common.config import Config, EnvConfig, PPOConfig, RNDConfig, RolloutConfig
from common.model import rnd
from common.model.distributions import Categorical, Gaussian
from common.protocol.chunk import Chunk
from common.spaces import Spaces
from learner.training.advantages import vtrace
from learner.training.batch import Batch, make_batch
from learner.training.minibatches import draw_predictor_mask
from learner.training.normaliser import Normaliser
from learner.training.ppo import PPO
from learner.training.running_stats import PRIOR_COUNT, Moments, forward_filter

T, B = 128, 8
GAMMA = 0.99
CPU = torch.device("cpu")
SPACES = Spaces((5,), 1, 3)
STATISTICS = torch.zeros(5), torch.ones(5)
CONFIG = Config(
    precision="float32",
    env=EnvConfig(reward="raw"),
    rollout=RolloutConfig(steps=T, lanes=B, batch_lanes=2 * B),
    ppo=PPOConfig(gamma_intrinsic=GAMMA),
)
Maker = Callable[..., Chunk]


def small(keep: float) -> Config:
    """A small update of two minibatches; the predictor learns from this share of the rows."""
    return replace(
        CONFIG,
        rollout=RolloutConfig(steps=5, lanes=4, batch_lanes=4),
        ppo=PPOConfig(epochs=1, minibatches=2),
        rnd=RNDConfig(predictor_keep=keep),
    )


def batch_of(config: Config, make_chunk: Maker, seed: int = 0) -> Batch:
    """A batch of noise at lag 0."""
    steps, lanes = config.rollout.steps, config.rollout.batch_lanes
    chunk = make_chunk(steps, lanes, SPACES, seed)
    lag = np.zeros(lanes, np.int64)
    return make_batch(chunk, lag, chunk.reward, chunk.bonus, SPACES, STATISTICS, CPU)


def test_a_constant_bonus_fills_the_filter_up_to_its_horizon() -> None:
    normaliser, bonus = Normaliser(SPACES, CONFIG), np.ones((T, 2 * B), np.float32)
    levels = []
    for _ in range(8):
        normaliser.scale_bonus(bonus, [0, 1])
        levels.append([normaliser.state()[f"filter.{slot}"].numpy() for slot in (0, 1)])
    assert np.shape(levels) == (8, 2, B)
    filled = (1 - GAMMA ** (T * np.arange(1, 9))) / (1 - GAMMA)
    np.testing.assert_allclose(levels, np.broadcast_to(filled[:, None, None], (8, 2, B)), rtol=1e-12)
    assert filled[[0, -1]] == pytest.approx([72.4, 100.0], abs=0.05)


def test_lanes_of_constant_bonus_spread_as_far_as_their_horizons() -> None:
    bonus, carry = np.tile(np.arange(1.0, 1.0 + B), (T, 1)), np.zeros(B)
    normaliser, everything = Normaliser(SPACES, replace(CONFIG, rollout=RolloutConfig(lanes=B))), []
    for _ in range(10):
        filtered, carry = forward_filter(carry, bonus, GAMMA)
        everything.append(filtered)
        normaliser.scale_bonus(bonus.astype(np.float32), [0])
    assert filtered.std() == pytest.approx(bonus[0].std() / (1 - GAMMA), rel=1e-3)
    assert float(normaliser.intrinsic_return.std) == pytest.approx(np.std(everything), rel=1e-6)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_moments_are_those_of_all_samples_in_any_split_and_order(sizes: list[int], order: Random) -> None:
    total = sum(sizes)
    samples = np.random.default_rng(total).normal(50.0, [0.1, 1.0, 10.0], (total, 3))
    parts = np.split(samples, np.cumsum(sizes)[:-1])
    order.shuffle(parts)
    merged = Moments.prior((3,))
    for part in parts:
        merged = merged.merge(Moments.of(part))
    # The prior is a tiny part of one more sample, of mean 0 and variance 1.
    mean = total * samples.mean(0) / (total + PRIOR_COUNT)
    squares = PRIOR_COUNT * (1 + mean**2) + np.square(samples - mean).sum(0)
    np.testing.assert_allclose(merged.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(merged.var, squares / (total + PRIOR_COUNT), rtol=1e-9)
    assert merged.count == pytest.approx(total + PRIOR_COUNT)


@pytest.mark.parametrize("fresh", [True, False], ids=["lag 0", "stale"])
def test_vtrace_is_the_sum_over_all_later_errors(fresh: bool) -> None:
    steps, lanes, lam = 7, 3, 0.95
    rng = torch.Generator().manual_seed(0)
    reward, value, next_value = torch.randn(3, steps, lanes, generator=rng, dtype=torch.float64)
    rho = torch.ones_like(value) if fresh else torch.randn(steps, lanes, generator=rng).exp().double()
    discount = torch.full_like(value, GAMMA)
    trace = lam * discount
    discount[2, 0] = trace[2, 0] = trace[4, 1] = 0.0  # a termination, and a time limit
    # v_s = V_s + sum over t of (product of the traces c_s .. c_t-1) rho_t delta_t, both caps at 1.
    capped, error = rho.clamp(max=1.0), reward + discount * next_value - value
    target = value.clone()
    for s in range(steps):
        for t in range(s, steps):
            target[s] += (trace[s:t] * capped[s:t]).prod(0) * capped[t] * error[t]
    advantage = (
        target - value
    ) / capped  # the loss applies the weight of its own step; with rho = 1 this is GAE
    found = vtrace(reward, value, next_value, discount, trace, rho)
    torch.testing.assert_close(found, (advantage, target), rtol=0, atol=1e-12)


def test_both_distributions_equal_those_of_torch() -> None:
    parameters = torch.randn(11, 6, generator=torch.Generator().manual_seed(0))
    mean, log_std = parameters.chunk(2, 1)
    number, vector = torch.arange(11) % 6, torch.linspace(-3.0, 3.0, 33).view(11, 3)
    categorical = torch.distributions.Categorical(logits=parameters)
    normal = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)
    pairs = ((Categorical(), categorical, number), (Gaussian(), normal, vector))
    for ours, theirs, action in pairs:
        torch.testing.assert_close(ours.log_prob(parameters, action), theirs.log_prob(action))
        torch.testing.assert_close(ours.entropy(parameters), theirs.entropy())


@pytest.mark.parametrize("keep", [1 / 32, 0.25, 1.0])
def test_the_predictor_keeps_its_share_of_every_epoch(keep: float) -> None:
    config = replace(CONFIG, rnd=RNDConfig(predictor_keep=keep))
    mask = draw_predictor_mask(T * 2 * B, config, torch.Generator().manual_seed(0))
    assert mask.shape == (config.ppo.epochs, T * 2 * B)
    for share, draws in ((mask.float().mean(), mask.numel()), (mask[0].float().mean(), mask.shape[1])):
        assert abs(float(share) - keep) <= 3 * (keep * (1 - keep) / draws) ** 0.5
    assert torch.equal(mask[0], mask[1]) == (keep == 1.0)  # each epoch draws its own rows


def test_a_minibatch_without_predictor_rows_has_loss_0(make_chunk: Maker) -> None:
    config = small(keep=0.05)
    ppo, batch = PPO(config, SPACES, CPU), batch_of(config, make_chunk)
    seen = batch.next_observation.flatten(0, 1)

    def drawn(seed: int) -> Tensor:
        return draw_predictor_mask(len(seen), config, torch.Generator().manual_seed(seed))[0]

    seed = next(seed for seed in range(1000) if drawn(seed).sum() == 1)
    ppo.generator.manual_seed(seed)
    row = rnd.whiten(seen[drawn(seed)], *STATISTICS)
    with torch.no_grad():
        error = float(rnd.prediction_error(ppo.predictor(row), ppo.target(row)))
    report = ppo.update(batch, STATISTICS, 0.0)
    assert report is not None  # every figure is finite
    # A mean over two minibatches, of which one has this step and the other none.
    assert report.figures["predictor_loss"] == pytest.approx(error / 2, rel=1e-5)


def test_a_hundred_updates_do_not_change_the_target(make_chunk: Maker) -> None:
    config = small(keep=1.0)
    ppo = PPO(config, SPACES, CPU)

    def digest(state: dict[str, Tensor]) -> str:
        return hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest()

    target, predictor = digest(ppo.target.state_dict()), digest(ppo.predictor.state_dict())
    for seed in range(100):
        assert ppo.update(batch_of(config, make_chunk, seed), STATISTICS, 0.0) is not None
    assert digest(ppo.target.state_dict()) == target
    assert digest(ppo.predictor.state_dict()) != predictor
