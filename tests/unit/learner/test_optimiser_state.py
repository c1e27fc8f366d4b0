"""The state of an optimiser as named tensors."""

from __future__ import annotations

import torch

from learner.training.optimiser_state import load_optimiser, optimiser_tensors


def make_layer() -> tuple[torch.nn.Conv2d, torch.optim.Adam]:
    """A convolution with channels-last weights, and its optimiser."""
    layer = torch.nn.Conv2d(3, 5, 2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return layer, torch.optim.Adam(layer.parameters(), lr=0.1, fused=True)


def step(layer: torch.nn.Conv2d, optimiser: torch.optim.Adam, seed: int) -> None:
    optimiser.zero_grad()
    layer(torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
    optimiser.step()


def test_a_loaded_optimiser_continues_like_the_saved_one() -> None:
    """The loaded tensors are contiguous, as those of a checkpoint, and the weights are channels-last."""
    (layer, optimiser), (other, loaded) = make_layer(), make_layer()
    for seed in range(3):
        step(layer, optimiser, seed)
    tensors = {name: value.clone().contiguous() for name, value in optimiser_tensors(optimiser).items()}
    assert tensors.keys() == {f"{n}.{name}" for n in (0, 1) for name in ("step", "exp_avg", "exp_avg_sq")}
    other.load_state_dict(layer.state_dict())
    load_optimiser(loaded, tensors)
    for one in ((layer, optimiser), (other, loaded)):
        step(*one, seed=3)
    assert torch.equal(layer.weight, other.weight)
    assert torch.equal(layer.bias, other.bias)  # type: ignore[arg-type]  # a bias is optional
