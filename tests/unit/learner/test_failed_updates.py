"""An update whose figures are not finite changes nothing."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from common.config import RNDConfig
from learner.training.ppo import PPO
from tests.support.ppo_batches import (
    CONFIG,
    CPU,
    IMAGE_STATISTICS,
    IMAGES,
    SPACES,
    STATISTICS,
    Maker,
    batch_for,
    image_batch,
    train,
    tuned,
    updated,
)


def learned(ppo: PPO) -> dict[str, object]:
    """Copies of the networks' weights and of the optimiser's state."""
    return copy.deepcopy(
        {
            "policy": ppo.policy.state_dict(),
            "predictor": ppo.predictor.state_dict(),
            "optimiser": ppo.optimiser.state_dict(),
        }
    )


def equal(one: object, other: object) -> bool:
    """Whether two nested values are equal bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


BAD_VALUES = {
    "NaN reward": ("reward", math.nan),
    "infinite reward": ("reward", math.inf),
    "reward whose square overflows": ("reward", 1e30),
    "NaN bonus": ("intrinsic", math.nan),
    "NaN observation": ("next_observation", math.nan),
}


@pytest.mark.parametrize("updates", [0, 2])
@pytest.mark.parametrize(("name", "value"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_an_update_that_is_not_finite_leaves_networks_and_optimiser_as_they_were(
    name: str, value: float, updates: int, make_chunk: Maker
) -> None:
    """One bad value in the last step of the last lane suffices. The next update equals the control's."""
    config = replace(CONFIG, rnd=RNDConfig(predictor_keep=1.0))
    (ppo, _), (control, _) = (updated(config, make_chunk, updates) for _ in range(2))
    batch = batch_for(ppo, config, make_chunk, 7)
    bad = getattr(batch, name).clone()
    bad[-1, -1] = value
    before, draws = learned(ppo), ppo.generator.get_state()
    assert ppo.update(replace(batch, **{name: bad}), STATISTICS, 0.0) is None
    assert equal(learned(ppo), before)
    ppo.generator.set_state(draws)
    assert train(ppo, batch) == train(control, batch)
    assert equal(learned(ppo), learned(control))
    assert not equal(learned(ppo), before)


def test_an_overflow_in_a_later_minibatch_undoes_the_whole_update(make_chunk: Maker) -> None:
    """The first minibatches are finite and change every weight."""
    config = tuned(learning_rate=1e30, max_grad_norm=0.0)
    ppo = PPO(config, SPACES, CPU)
    before = learned(ppo)
    assert ppo.update(batch_for(ppo, config, make_chunk), STATISTICS, 0.0) is None
    assert equal(learned(ppo), before)


def test_an_undone_update_on_images_keeps_the_memory_layout_of_moments(make_chunk: Maker) -> None:
    """The next update equals that of the control, which never failed."""
    config = tuned(epochs=1, minibatches=1)
    ppo, control = PPO(config, IMAGES, CPU), PPO(config, IMAGES, CPU)
    first = image_batch(ppo, config, make_chunk)
    for one in (ppo, control):
        train(one, first)
    draws = ppo.generator.get_state()
    bad = replace(first, reward=first.reward * math.nan)
    assert ppo.update(bad, IMAGE_STATISTICS, 0.0) is None
    ppo.generator.set_state(draws)
    second = image_batch(control, config, make_chunk, 1)
    assert train(ppo, second) == train(control, second)
    assert equal(learned(ppo), learned(control))
