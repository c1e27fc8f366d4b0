"""The bonus falls on observations like those that the predictor has learned, and on no others.

There are two clusters of vectors, each near a plane of its own. The predictor learns from samples of one
cluster and a few of the other. The bonus of both is computed on other samples. A correct ranking alone proves
nothing: after whitening with the statistics of one cluster, the inputs of the other are large, and an
untrained network has a larger error on them as well.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from common.config import NetworkConfig
from common.model import rnd
from common.model.networks import make_predictor, make_target
from common.spaces import Spaces
from learner.training.running_stats import Moments

SIZE, PLANE = 64, 8
SAMPLES, HELD_OUT = 1000, 500
STEPS, MINIBATCH, LEARNING_RATE = 600, 64, 1e-3
SPACES = Spaces((SIZE,), 1, 2)
SMALL = 1e-3  # a scale at which the outputs of a network without whitening hardly differ


def cluster(rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """A source of samples, float32 [count, SIZE], around a random point of a random plane."""
    centre, directions = rng.normal(size=SIZE), rng.normal(0.0, 0.3, (PLANE, SIZE))

    def draw(count: int) -> np.ndarray:
        within = rng.normal(size=(count, PLANE)) @ directions
        return (centre + within + rng.normal(0.0, 0.05, (count, SIZE))).astype(np.float32)

    return draw


@cache
def bonuses(foreign: int, steps: int, scale: float, whitened: bool = True) -> tuple[Tensor, Tensor]:
    """The bonuses of held-out samples of the familiar and of the novel cluster, [HELD_OUT] each.

    Args:
        foreign: how many of the training samples come from the novel cluster.
        steps: optimiser steps; 0 leaves the predictor untrained.
        scale: the factor of every observation.
        whitened: whether observations are whitened with the statistics of the training samples.
    """
    rng = np.random.default_rng(0)
    familiar, novel = cluster(rng), cluster(rng)
    seen = scale * np.concatenate([familiar(SAMPLES - foreign), novel(foreign)])
    moments = Moments.prior((SIZE,)).merge(Moments.of(seen))
    mean, std = (torch.from_numpy(x).float() for x in (moments.mean, moments.std))
    if not whitened:
        mean, std = torch.zeros(SIZE), torch.ones(SIZE)
    target = make_target(SPACES, NetworkConfig(), 1)
    predictor = make_predictor(SPACES, NetworkConfig(), 2)
    optimiser = torch.optim.Adam(predictor.parameters(), LEARNING_RATE, fused=True)
    x, draws = rnd.whiten(torch.from_numpy(seen), mean, std), torch.Generator().manual_seed(3)
    feature = target(x)
    for _ in range(steps):
        rows = torch.randint(SAMPLES, (MINIBATCH,), generator=draws)
        loss = rnd.prediction_error(predictor(x[rows]), feature[rows]).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    with torch.no_grad():
        one, other = (
            rnd.bonus(predictor, target, torch.from_numpy(scale * draw(HELD_OUT)), mean, std)
            for draw in (familiar, novel)
        )
    return one, other


def fall(steps: int, scale: float = 1.0) -> float:
    """How many times smaller the familiar cluster's bonus is than before training."""
    return float(bonuses(0, 0, scale)[0].mean() / bonuses(0, steps, scale)[0].mean())


def contrast(steps: int, scale: float = 1.0) -> float:
    """How many times larger the novel cluster's bonus is than the familiar one's."""
    familiar, novel = bonuses(0, steps, scale)
    return float(novel.mean() / familiar.mean())


def ranking(steps: int) -> float:
    """How often a novel sample has the larger bonus of a pair (area under the ROC curve)."""
    familiar, novel = bonuses(0, steps, 1.0)
    return float((novel[:, None] > familiar).float().mean())


def test_the_bonus_falls_on_the_familiar_cluster_and_not_on_the_novel_one() -> None:
    assert fall(STEPS) >= 20
    assert contrast(STEPS) >= 50


def test_an_untrained_predictor_has_a_good_ranking_and_fails_the_other_bounds() -> None:
    assert ranking(0) > 0.95
    assert ranking(STEPS) > 0.98
    assert fall(0) < 20
    assert contrast(0) < 50


def test_the_bonus_falls_with_the_number_of_learned_samples() -> None:
    novelty = [float(bonuses(foreign, STEPS, 1.0)[1].mean()) for foreign in (0, 5, 20, 80, 320)]
    assert all(more > less for more, less in pairwise(novelty)), novelty


def test_whitening_makes_novelty_independent_of_scale() -> None:
    assert fall(STEPS, SMALL) >= 20
    assert contrast(STEPS, SMALL) >= 50


def test_without_whitening_small_observations_have_almost_equal_bonuses() -> None:
    bare, white = (torch.cat(bonuses(0, 0, SMALL, whitened)) for whitened in (False, True))
    assert bare.std() < 1e-3 * white.std()
