"""Whitening and prediction error against their definitions."""

from __future__ import annotations

import torch

from common.rnd import prediction_error, whiten


def test_whitening_is_affine_up_to_the_clip() -> None:
    """(x - mean) / std between -5 and 5, per element, for bytes and for floats."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (7, 3, 2), generator=generator, dtype=torch.uint8)
    mean = 100 * torch.rand(3, 2, generator=generator)
    std = torch.full((3, 2), 20.0)
    expected = torch.stack([((row.float() - mean) / std).clip(-5, 5) for row in image])
    assert torch.equal(whiten(image, mean, std), expected)
    assert torch.equal(whiten(image.float(), mean, std), expected)
    assert expected.max() == 5.0


def test_the_first_change_of_a_dead_pixel_saturates() -> None:
    """A tiny std is divided by as it is: no epsilon softens it."""
    image = torch.tensor([[100], [101]], dtype=torch.uint8)
    white = whiten(image, torch.tensor([100.0]), torch.tensor([1e-4]))
    assert white.tolist() == [[0.0], [5.0]]


def test_whitening_leaves_its_input_alone() -> None:
    """Float observations are not clipped in place."""
    observation = torch.tensor([[9.0]])
    whiten(observation, torch.zeros(1), torch.ones(1))
    assert observation.item() == 9.0


def test_the_error_is_a_mean_over_features() -> None:
    """Per sample; half-precision inputs are compared in float32."""
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
