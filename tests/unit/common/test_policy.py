"""The acting policy: how actions are drawn, and the log-probabilities that it returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.config import Config, RolloutConfig
from common.model.bundle import Bundle
from common.model.networks import make_policy
from common.model.policy import Policy
from common.spaces import Spaces

SPACES = Spaces((5,), 1, 7)
TORQUES = Spaces((5,), 1, 3, ((-2.0, 2.0),) * 3)
LARGEST = np.nextafter(np.float32(1), np.float32(0))
CONFIG = Config(precision="float32", rollout=RolloutConfig(steps=4, lanes=2, batch_lanes=2))


def bundle(spaces: Spaces, logit_bias: torch.Tensor, mean: float = 0.0, std: float = 1.0) -> Bundle:
    """New weights whose logits are about `logit_bias`."""
    state = make_policy(spaces, CONFIG.network, 3).state_dict()
    state["logits.bias" if spaces.is_image else "actor.4.bias"] = logit_bias
    shape = spaces.observation
    statistics = {"mean": torch.full(shape, mean), "std": torch.full(shape, std)}
    return Bundle(0, 0, {f"policy.{name}": value for name, value in state.items()} | statistics)


def policy(spaces: Spaces = SPACES, **statistics: float) -> Policy:
    """A policy with unequal action probabilities."""
    acting = Policy(spaces, CONFIG)
    acting.load(bundle(spaces, torch.linspace(-2.0, 1.0, spaces.actions), **statistics))
    return acting


def stacks(rows: int) -> np.ndarray:
    """Vector observations."""
    return np.random.default_rng(0).normal(size=(rows, 1, 5)).astype(np.float32)


def log_probs(acting: Policy, stack: np.ndarray) -> np.ndarray:
    """The log-probability of every action, [B, actions]."""
    return torch.log_softmax(acting.distribution_parameters(stack), 1).numpy()


def gaussian() -> Policy:
    """A policy with means of about -1, 0.5 and 4, and deviations of about e^-2, 1 and e."""
    acting, blank = Policy(TORQUES, CONFIG), bundle(TORQUES, torch.tensor([-1.0, 0.5, 4.0]))
    blank.tensors["policy.log_std"] = torch.tensor([-2.0, 0.0, 1.0])
    acting.load(blank)
    return acting


def test_log_probs_are_a_distribution() -> None:
    """Each row sums to one."""
    np.testing.assert_allclose(np.exp(log_probs(policy(), stacks(11))).sum(1), 1.0, rtol=1e-6)


def test_actions_are_drawn_as_often_as_they_are_likely() -> None:
    """In an even grid of draws the share of each action is its probability."""
    acting, draws = policy(), 20_011
    uniform = ((np.arange(draws) + 0.5) / draws).astype(np.float32)
    action, _ = acting.act(np.repeat(stacks(1), draws, axis=0), uniform)
    share = np.bincount(action, minlength=7) / draws
    np.testing.assert_allclose(share, np.exp(log_probs(acting, stacks(1))[0]), atol=3 / draws)


def test_the_returned_log_prob_is_that_of_the_taken_action() -> None:
    """It is not that of another action or of another lane."""
    acting, stack = policy(), stacks(11)
    action, log_prob = acting.act(stack, np.random.default_rng(1).random(11, np.float32))
    assert len(set(action)) > 2
    assert (action.dtype, log_prob.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(log_prob, log_probs(acting, stack)[np.arange(11), action])


@pytest.mark.parametrize("uniform", [0.0, LARGEST])
def test_extreme_draws_give_legal_actions(uniform: float) -> None:
    """The ends of [0, 1) pick the first and the last action."""
    action, _ = policy().act(stacks(3), np.full(3, uniform, np.float32))
    assert set(action) == {0 if uniform == 0.0 else 6}


def test_an_impossible_action_is_never_taken() -> None:
    """A draw of exactly 0 does not select a first action without probability."""
    acting = Policy(SPACES, CONFIG)
    acting.load(bundle(SPACES, torch.tensor([-300.0, 0, 0, -300.0, 0, 0, -300.0])))
    uniform = np.linspace(0, 1, 101, endpoint=False, dtype=np.float32)
    action, _ = acting.act(np.repeat(stacks(1), 101, axis=0), uniform)
    assert set(action) == {1, 2, 4, 5}


def test_batching_does_not_change_actions() -> None:
    """The action of a lane depends on its own stack and its own draw alone."""
    acting, stack, uniform = policy(), stacks(11), np.random.default_rng(2).random(11, np.float32)
    together, log_prob = acting.act(stack, uniform)
    alone = [acting.act(stack[i : i + 1], uniform[i : i + 1]) for i in range(11)]
    np.testing.assert_array_equal(together, [action[0] for action, _ in alone])
    np.testing.assert_allclose(log_prob, [value[0] for _, value in alone], atol=1e-6)


def test_vectors_are_whitened_with_the_bundle() -> None:
    """Shifted and scaled observations with fitting statistics give the same log-probabilities."""
    plain, shifted = policy(), policy(mean=10.0, std=4.0)
    np.testing.assert_allclose(log_probs(shifted, stacks(3) * 4 + 10), log_probs(plain, stacks(3)), atol=1e-5)


def test_images_are_not_whitened() -> None:
    """The input of the policy is raw images; only the bonus uses the statistics."""
    spaces = Spaces((84, 84), 4, 7)
    stack = np.random.default_rng(0).integers(0, 256, (2, 4, 84, 84), np.uint8)
    one, other = policy(spaces), policy(spaces, mean=10.0, std=4.0)
    np.testing.assert_array_equal(log_probs(one, stack), log_probs(other, stack))


def test_continuous_actions_have_the_mean_and_deviation_of_the_policy() -> None:
    """The moments of 20,011 independent draws fit; the components of an action do not correlate."""
    acting, count = gaussian(), 20_011
    uniform = np.random.default_rng(3).random((count, 3), np.float32)
    action, _ = acting.act(np.repeat(stacks(1), count, axis=0), uniform)
    assert (action.shape, action.dtype) == ((count, 3), np.float32)
    mean, log_std = acting.distribution_parameters(stacks(1))[0].chunk(2)
    deviation = log_std.exp().numpy()
    standard = (action - mean.numpy()) / deviation
    np.testing.assert_allclose(standard.mean(0), 0.0, atol=4 / count**0.5)
    np.testing.assert_allclose(standard.std(0), 1.0, atol=4 / (2 * count) ** 0.5)
    np.testing.assert_allclose(np.corrcoef(standard.T), np.eye(3), atol=4 / count**0.5)
    np.testing.assert_allclose(deviation, np.exp([-2.0, 0.0, 1.0]), rtol=1e-6)


def test_continuous_actions_are_the_normal_quantiles_of_their_draws() -> None:
    """A draw of one half gives the mean; other draws give the quantiles that PyTorch computes."""
    acting, stack = gaussian(), stacks(7)
    uniform = np.random.default_rng(4).random((7, 3), np.float32)
    uniform[0] = 0.5
    mean, log_std = acting.distribution_parameters(stack).chunk(2, 1)
    expected = torch.distributions.Normal(mean.double(), log_std.exp().double()).icdf(
        torch.from_numpy(uniform)
    )
    action, _ = acting.act(stack, uniform)
    np.testing.assert_allclose(action.astype(np.float32), expected.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(action[0], mean[0])


@pytest.mark.parametrize("uniform", [0.0, LARGEST])
def test_extreme_draws_give_finite_continuous_actions(uniform: float) -> None:
    """They are between five and six deviations from the mean and have finite log-probabilities."""
    acting = gaussian()
    action, log_prob = acting.act(stacks(2), np.full((2, 3), uniform, np.float32))
    mean, log_std = (x.numpy() for x in acting.distribution_parameters(stacks(2)).chunk(2, 1))
    distance = (action - mean) / np.exp(log_std) * (-1 if uniform == 0.0 else 1)
    assert ((distance > 5) & (distance < 6)).all()
    assert np.isfinite(log_prob).all()


def test_the_returned_density_is_that_of_the_action_before_any_clipping() -> None:
    """The policy does not clip the action, although the task may, so that the density is normal."""
    acting, stack = gaussian(), stacks(11)
    action, log_prob = acting.act(stack, np.random.default_rng(5).random((11, 3), np.float32))
    mean, log_std = acting.distribution_parameters(stack).chunk(2, 1)
    normal = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)
    assert (log_prob.shape, log_prob.dtype) == ((11,), np.float32)
    np.testing.assert_allclose(log_prob, normal.log_prob(torch.from_numpy(action)), rtol=1e-5, atol=1e-5)
    assert (np.abs(action) > 2).any()


def test_batching_does_not_change_continuous_actions() -> None:
    acting, stack = gaussian(), stacks(11)
    uniform = np.random.default_rng(6).random((11, 3), np.float32)
    together, _ = acting.act(stack, uniform)
    alone = [acting.act(stack[i : i + 1], uniform[i : i + 1])[0][0] for i in range(11)]
    np.testing.assert_allclose(together.astype(np.float32), alone, atol=1e-5)


def test_the_best_action_is_the_most_probable_one() -> None:
    """It is the mean of a normal distribution, or the action with the largest logit."""
    continuous, discrete, stack = gaussian(), policy(), stacks(11)
    np.testing.assert_array_equal(continuous.mode(stack), continuous.distribution_parameters(stack)[:, :3])
    np.testing.assert_array_equal(discrete.mode(stack), discrete.distribution_parameters(stack).argmax(1))
    assert discrete.mode(stack).dtype == discrete.act(stack, np.zeros(11, np.float32))[0].dtype
