"""Whitening and prediction error against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common.model.rnd import bonus, prediction_error, whiten


def test_whitening_is_affine_up_to_the_clip() -> None:
    """Each element is (x - mean) / std, clipped to between -5 and 5, for bytes and for floats."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (7, 3, 2), generator=generator, dtype=torch.uint8)
    mean = 100 * torch.rand(3, 2, generator=generator)
    std = torch.full((3, 2), 20.0)
    expected = torch.stack([((row.float() - mean) / std).clip(-5, 5) for row in image])
    assert torch.equal(whiten(image, mean, std), expected)
    assert torch.equal(whiten(image.float(), mean, std), expected)
    assert expected.max() == 5.0


def test_the_first_change_of_a_constant_pixel_saturates() -> None:
    """A small standard deviation is the divisor itself, without an epsilon."""
    image = torch.tensor([[100], [101]], dtype=torch.uint8)
    white = whiten(image, torch.tensor([100.0]), torch.tensor([1e-4]))
    assert white.tolist() == [[0.0], [5.0]]


def test_whitening_does_not_change_its_input() -> None:
    """Float observations are not clipped in place."""
    observation = torch.tensor([[9.0]])
    whiten(observation, torch.zeros(1), torch.ones(1))
    assert observation.item() == 9.0


def test_the_error_is_a_mean_over_features() -> None:
    """There is one mean for each sample; half-precision inputs are compared in float32."""
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 5, 3, generator=generator)
    slow = torch.tensor(
        [
            sum((x - y) ** 2 for x, y in zip(p, q, strict=True)) / 3
            for p, q in zip(a.tolist(), b.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(prediction_error(a, b), slow)
    assert prediction_error(a.bfloat16(), b).dtype is torch.float32


@pytest.mark.parametrize("count", [1, 5, 300])  # one forward pass, and several
def test_the_bonus_is_the_error_on_each_whitened_observation_alone(count: int) -> None:
    """It depends on no other observation, so it is not centred, and it is never negative."""
    generator = torch.Generator().manual_seed(2)
    observation = 3 + 2 * torch.randn(count, 4, generator=generator)
    predictor, target = nn.Linear(4, 3), nn.Linear(4, 3)
    mean, std = torch.full((4,), 3.0), torch.full((4,), 2.0)
    with torch.no_grad():
        for network in (predictor, target):
            network.weight.copy_(torch.randn(3, 4, generator=generator))
            network.bias.copy_(torch.randn(3, generator=generator))
        found = bonus(predictor, target, observation, mean, std)
        white = [((row - mean) / std).clip(-5, 5) for row in observation]
        slow = torch.stack([(predictor(row) - target(row)).square().mean() for row in white])
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, slow)
    assert found.min() >= 0
