"""Acting: how actions are drawn, and what is said about them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.chunk import Bundle, Spaces
from common.config import Config, RolloutConfig
from common.networks import make_policy
from common.policy import Policy

SPACES = Spaces((5,), 1, 7)
CONFIG = Config(precision="float32", rollout=RolloutConfig(steps=4, lanes=2, batch_lanes=2))


def bundle(spaces: Spaces, logit_bias: torch.Tensor, mean: float = 0.0, std: float = 1.0) -> Bundle:
    """Fresh weights whose logits are about `logit_bias`."""
    state = make_policy(spaces, CONFIG.network, 3).state_dict()
    state["logits.bias" if spaces.is_image else "actor.4.bias"] = logit_bias
    shape = spaces.observation
    statistics = {"mean": torch.full(shape, mean), "std": torch.full(shape, std)}
    return Bundle(0, 0, {f"policy.{name}": value for name, value in state.items()} | statistics)


def policy(spaces: Spaces = SPACES, **statistics: float) -> Policy:
    """A policy with unequal action probabilities."""
    made = Policy(spaces, CONFIG)
    made.load(bundle(spaces, torch.linspace(-2.0, 1.0, spaces.actions), **statistics))
    return made


def stacks(rows: int) -> np.ndarray:
    """Vector observations."""
    return np.random.default_rng(0).normal(size=(rows, 1, 5)).astype(np.float32)


def test_log_probs_are_a_distribution() -> None:
    """Each row sums to one."""
    np.testing.assert_allclose(np.exp(policy().log_probs(stacks(11))).sum(1), 1.0, rtol=1e-6)


def test_actions_are_drawn_as_often_as_they_are_likely() -> None:
    """Over an even grid of draws each action's share is its probability."""
    made, draws = policy(), 20_011
    uniform = ((np.arange(draws) + 0.5) / draws).astype(np.float32)
    action, _ = made.act(np.repeat(stacks(1), draws, axis=0), uniform)
    share = np.bincount(action, minlength=7) / draws
    np.testing.assert_allclose(share, np.exp(made.log_probs(stacks(1))[0]), atol=3 / draws)


def test_the_shipped_log_prob_is_that_of_the_taken_action() -> None:
    """Not of another action, nor of another lane."""
    made, stack = policy(), stacks(11)
    action, log_prob = made.act(stack, np.random.default_rng(1).random(11, np.float32))
    assert len(set(action)) > 2
    assert (action.dtype, log_prob.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(log_prob, made.log_probs(stack)[np.arange(11), action])


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(np.float32(1), np.float32(0))])
def test_extreme_draws_give_legal_actions(uniform: float) -> None:
    """The ends of [0, 1) pick the first and the last action."""
    action, _ = policy().act(stacks(3), np.full(3, uniform, np.float32))
    assert set(action) == {0 if uniform == 0.0 else 6}


def test_an_impossible_action_is_never_taken() -> None:
    """Not even by a draw of exactly 0 when the first action has no probability."""
    made = Policy(SPACES, CONFIG)
    made.load(bundle(SPACES, torch.tensor([-300.0, 0, 0, -300.0, 0, 0, -300.0])))
    uniform = np.linspace(0, 1, 101, endpoint=False, dtype=np.float32)
    action, _ = made.act(np.repeat(stacks(1), 101, axis=0), uniform)
    assert set(action) == {1, 2, 4, 5}


def test_batching_does_not_change_actions() -> None:
    """A lane acts as it would alone: its action depends on its stack and its own draw."""
    made, stack, uniform = policy(), stacks(11), np.random.default_rng(2).random(11, np.float32)
    together, log_prob = made.act(stack, uniform)
    alone = [made.act(stack[i : i + 1], uniform[i : i + 1]) for i in range(11)]
    np.testing.assert_array_equal(together, [action[0] for action, _ in alone])
    np.testing.assert_allclose(log_prob, [value[0] for _, value in alone], atol=1e-6)


def test_vectors_are_whitened_with_the_bundle() -> None:
    """Statistics that undo a shift and a scale undo it for the policy too."""
    plain, shifted = policy(), policy(mean=10.0, std=4.0)
    np.testing.assert_allclose(shifted.log_probs(stacks(3) * 4 + 10), plain.log_probs(stacks(3)), atol=1e-5)


def test_images_are_not_whitened() -> None:
    """Statistics are for the bonus; the policy sees raw images."""
    spaces = Spaces((84, 84), 4, 7)
    stack = np.random.default_rng(0).integers(0, 256, (2, 4, 84, 84), np.uint8)
    one, other = policy(spaces), policy(spaces, mean=10.0, std=4.0)
    np.testing.assert_array_equal(one.log_probs(stack), other.log_probs(stack))
