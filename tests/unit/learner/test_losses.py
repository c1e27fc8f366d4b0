"""Losses against their definitions, one sample at a time."""

from __future__ import annotations

import math

import pytest
import torch

from common.model.distributions import Categorical
from learner.training.losses import clipped_policy_loss, value_loss

CLIP = 0.2


@pytest.mark.parametrize("advantage", [1.5, -1.5])
@pytest.mark.parametrize("ratio", [0.5, 0.81, 1.0, 1.19, 2.0])
def test_the_policy_loss_is_the_worse_of_both_surrogates(ratio: float, advantage: float) -> None:
    """The loss is -min(A r, A clip(r)), as in the paper."""
    clipped = min(max(ratio, 1 - CLIP), 1 + CLIP)
    expected = -min(advantage * ratio, advantage * clipped)
    old = torch.tensor([-1.0])
    loss = clipped_policy_loss(old + math.log(ratio), old, torch.tensor([advantage]), CLIP)
    torch.testing.assert_close(loss, torch.tensor([expected]))


@pytest.mark.parametrize(
    ("ratio", "advantage", "flat"),
    [(1.5, 1.0, True), (1.5, -1.0, False), (0.5, 1.0, False), (0.5, -1.0, True), (1.0, 1.0, False)],
)
def test_the_gradient_is_zero_only_beyond_the_clip_in_the_direction_of_the_advantage(
    ratio: float, advantage: float, flat: bool
) -> None:
    """A ratio that changed against the advantage always has a gradient."""
    log_prob = torch.tensor([math.log(ratio)], requires_grad=True)
    clipped_policy_loss(log_prob, torch.zeros(1), torch.tensor([advantage]), CLIP).sum().backward()
    assert log_prob.grad is not None
    assert (log_prob.grad.item() == 0.0) == flat


def test_the_clip_may_be_a_tensor() -> None:
    """An annealed clip can be a tensor on the device."""
    log_prob, old, advantage = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    by_tensor = clipped_policy_loss(log_prob, old, advantage, torch.tensor(CLIP))  # type: ignore[arg-type]
    torch.testing.assert_close(by_tensor, clipped_policy_loss(log_prob, old, advantage, CLIP))


def test_the_value_gradient_is_the_error() -> None:
    """The loss is half the square, without a clip."""
    value = torch.tensor([3.0, -100.0], requires_grad=True)
    loss = value_loss(value, torch.tensor([1.0, 100.0]))
    assert loss.tolist() == [2.0, 20_000.0]
    loss.sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [2.0, -200.0]


def test_entropy_is_largest_for_uniform_and_zero_for_certain() -> None:
    """It is log A and 0; for other logits it is the entropy that torch computes."""
    logits = torch.stack([torch.zeros(7), torch.tensor([60.0] + [0.0] * 6), torch.arange(7.0)])
    entropy = Categorical().entropy(logits)
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(entropy, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(entropy[:2], torch.tensor([math.log(7), 0.0]), atol=1e-6, rtol=0)
