"""What one update changes and what it leaves as it is, on tiny batches of vector tasks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from common.config import RNDConfig
from common.model import rnd
from common.spaces import Spaces
from learner.training.ppo import FIGURES, PPO
from tests.support.ppo_batches import (
    CONFIG,
    CPU,
    IMAGES,
    SPACES,
    STATISTICS,
    TORQUES,
    E,
    Maker,
    T,
    batch_for,
    image_batch,
    same,
    train,
    tuned,
    updated,
)


def test_the_first_minibatch_has_ratio_1(make_chunk: Maker) -> None:
    """Learner and actor compute the same log-probabilities, so nothing is clipped before the first step."""
    _, (report,) = updated(tuned(epochs=1, minibatches=1), make_chunk)
    assert report.figures["actor_learner_log_prob_diff_max"] < 1e-5
    assert report.figures["clip_fraction"] == 0.0
    assert abs(report.figures["approx_kl"]) < 1e-6


def test_data_of_another_policy_shows_in_the_log_prob_difference(make_chunk: Maker) -> None:
    ppo, _ = updated(CONFIG, make_chunk)
    other = PPO(replace(CONFIG, seed=2), SPACES, CPU)
    figures = train(other, batch_for(ppo, CONFIG, make_chunk)).figures
    assert figures["actor_learner_log_prob_diff_max"] > 1e-3


def test_figures_are_finite_and_complete(make_chunk: Maker) -> None:
    """A report has every figure, with and without a bonus."""
    for config in (CONFIG, replace(CONFIG, rnd=RNDConfig(enabled=False))):
        figures = updated(config, make_chunk)[1][0].figures
        assert figures.keys() >= set(FIGURES)
        assert np.isfinite(list(figures.values())).all()


def test_an_update_changes_policy_and_predictor_and_never_the_target(make_chunk: Maker) -> None:
    """The predictor learns the target's outputs; a target that changes would make every state novel again."""
    fresh, (ppo, _) = PPO(CONFIG, SPACES, CPU), updated(CONFIG, make_chunk, 2)
    assert same(fresh.target.state_dict(), ppo.target.state_dict())
    before, after = fresh.tensors(), ppo.tensors()
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_without_a_bonus_there_is_no_predictor(make_chunk: Maker) -> None:
    """The predictor is neither trained nor published, and intrinsic rewards change no weight."""
    config = replace(CONFIG, rnd=RNDConfig(enabled=False))
    ppo = PPO(config, SPACES, CPU)
    other = PPO(config, SPACES, CPU)
    batch = batch_for(ppo, config, make_chunk)
    train(ppo, batch)
    train(other, replace(batch, intrinsic=batch.intrinsic * 100))
    assert same(ppo.tensors(), other.tensors())
    assert not any(name.startswith("predictor") for name in ppo.tensors())
    assert same(ppo.predictor.state_dict(), PPO(config, SPACES, CPU).predictor.state_dict())


def test_novelty_falls_on_the_observations_of_the_batch(make_chunk: Maker) -> None:
    """The prediction error shrinks on the data of the updates, and less on other data."""
    config = replace(CONFIG, rnd=RNDConfig(predictor_keep=1.0))
    ppo = PPO(config, SPACES, CPU)
    batch = batch_for(ppo, config, make_chunk)
    seen = batch.next_observation.flatten(0, 1)
    foreign = torch.randn(seen.shape, generator=torch.Generator().manual_seed(1)) * 3 + 5

    def novelty(observation: Tensor) -> float:
        x = rnd.whiten(observation, *STATISTICS)
        with torch.no_grad():
            return float(rnd.prediction_error(ppo.predictor(x), ppo.target(x)).mean())

    before = novelty(seen), novelty(foreign)
    losses = [train(ppo, batch).figures["predictor_loss"] for _ in range(20)]
    assert losses[-1] < 0.3 * losses[0]
    assert novelty(seen) < 0.3 * before[0]
    assert novelty(foreign) / before[1] > 2 * novelty(seen) / before[0]


def test_the_predictor_learns_only_from_kept_rows(make_chunk: Maker) -> None:
    """Rows that are not kept change no weight."""
    none = replace(CONFIG, rnd=RNDConfig(predictor_keep=1e-9))
    ppo, (report,) = updated(none, make_chunk)
    assert report.figures["predictor_loss"] == 0.0
    assert same(ppo.predictor.state_dict(), PPO(none, SPACES, CPU).predictor.state_dict())

    one, other = PPO(CONFIG, SPACES, CPU), PPO(CONFIG, SPACES, CPU)
    batch = batch_for(one, CONFIG, make_chunk)
    draws = torch.Generator()
    draws.set_state(one.generator.get_state())
    dropped = ~(torch.rand(CONFIG.ppo.epochs, T * E, generator=draws) < 0.5).any(0)
    assert 0 < dropped.sum() < T * E
    changed = batch.next_observation.clone()
    changed.view(T * E, -1)[dropped] += 1.0
    train(one, batch)
    train(other, replace(batch, next_observation=changed))
    assert same(one.tensors(), other.tensors())


def test_equal_seeds_give_equal_updates(make_chunk: Maker) -> None:
    """Weights and figures are equal bit for bit; another seed gives other weights."""
    (one, a), (two, b), (three, _) = (
        updated(config, make_chunk, 3) for config in (CONFIG, CONFIG, replace(CONFIG, seed=2))
    )
    assert same(one.tensors(), two.tensors())
    assert [report.figures for report in a] == [report.figures for report in b]
    assert not same(one.tensors(), three.tensors())


@pytest.mark.parametrize("enabled", [True, False], ids=["with bonus", "without"])
def test_a_restored_ppo_updates_like_the_uninterrupted_one(enabled: bool, make_chunk: Maker) -> None:
    """Networks, optimiser and random generator are its whole state."""
    config = replace(CONFIG, rnd=RNDConfig(enabled=enabled))
    one, _ = updated(config, make_chunk, 2)
    other = PPO(replace(config, seed=2), SPACES, CPU)
    other.load({name: value.clone() for name, value in one.state().items()})
    batch = batch_for(one, config, make_chunk, 7)
    reports = [train(ppo, batch, 0.2) for ppo in (one, other)]
    assert reports[0] == reports[1]
    assert same(one.tensors(), other.tensors())


@pytest.mark.parametrize("progress", [0.0, 0.5, 0.999999])
def test_annealing_goes_to_zero_and_not_below(progress: float, make_chunk: Maker) -> None:
    """The learning rate falls with the share of updates that are done; without annealing it is constant."""
    ppo = PPO(tuned(anneal=True), SPACES, CPU)
    rate = train(ppo, batch_for(ppo, CONFIG, make_chunk), progress).learning_rate
    assert 0.0 < rate == pytest.approx(1e-3 * (1 - progress))
    steady = PPO(CONFIG, SPACES, CPU)
    assert train(steady, batch_for(steady, CONFIG, make_chunk), progress).learning_rate == 1e-3


def test_the_predictor_does_not_change_the_policy(make_chunk: Maker) -> None:
    """Each network's gradient is clipped alone, so the predictor's rows change no weight of the policy."""
    weights = []
    for keep in (1e-9, 1.0):
        config = replace(tuned(max_grad_norm=0.01), rnd=RNDConfig(predictor_keep=keep))
        ppo, _ = updated(config, make_chunk)
        weights.append({k: v for k, v in ppo.tensors().items() if k.startswith("policy")})
    assert same(*weights)


def test_a_time_limit_bootstraps_from_the_final_observation(make_chunk: Maker) -> None:
    """The final observation of a truncated episode matters, unless a time limit counts as an end."""
    for is_end in (False, True):
        config = replace(CONFIG, env=replace(CONFIG.env, time_limit_is_end=is_end))
        one, other = PPO(config, SPACES, CPU), PPO(config, SPACES, CPU)
        batch = batch_for(one, config, make_chunk)
        train(one, batch)
        train(other, replace(batch, final_stack=batch.final_stack + 3))
        assert same(one.tensors(), other.tensors()) == is_end


def test_images_train_too(make_chunk: Maker) -> None:
    """An update on image stacks is finite, and actor and learner compute the same log-probabilities."""
    config = tuned(epochs=1, minibatches=1)
    ppo = PPO(config, IMAGES, CPU)
    figures = train(ppo, image_batch(ppo, config, make_chunk)).figures
    assert np.isfinite(list(figures.values())).all()
    assert figures["actor_learner_log_prob_diff_max"] < 1e-4


@pytest.mark.parametrize("spaces", [SPACES, TORQUES], ids=["discrete", "continuous"])
def test_fresh_data_gives_the_same_update_for_every_max_lag(spaces: Spaces, make_chunk: Maker) -> None:
    configs = [CONFIG, replace(CONFIG, max_lag=1), replace(CONFIG, max_lag=64), tuned(correct_lag=False)]
    learners = [PPO(config, spaces, CPU) for config in configs]
    for seed in range(2):
        batch = batch_for(learners[0], CONFIG, make_chunk, seed, spaces)
        reports = [train(ppo, batch) for ppo in learners]
        assert all(report == reports[0] for report in reports)
        assert all(same(ppo.tensors(), learners[0].tensors()) for ppo in learners)


def test_stale_data_gives_another_update_than_the_same_data_as_fresh(make_chunk: Maker) -> None:
    """The two differ for data of another policy, and not for data of the policy before the update."""
    config = replace(CONFIG, max_lag=2)
    source = PPO(replace(CONFIG, seed=2), SPACES, CPU)
    fresh, stale = (batch_for(source, config, make_chunk, lag=lag) for lag in (0, 2))
    learners = [PPO(config, SPACES, CPU) for _ in range(3)]
    uncorrected = PPO(replace(config, ppo=replace(CONFIG.ppo, correct_lag=False)), SPACES, CPU)
    one, other = train(learners[0], fresh).figures, train(learners[1], stale).figures
    assert (one["lag_mean"], other["lag_mean"]) == (0.0, 2.0)
    assert one["effective_samples"] == 1.0 > other["effective_samples"]
    assert other["actor_learner_log_prob_diff_max"] == 0.0 < one["actor_learner_log_prob_diff_max"]
    assert not same(learners[0].tensors(), learners[1].tensors())
    train(uncorrected, stale)
    assert same(uncorrected.tensors(), learners[0].tensors())
    own = batch_for(learners[2], config, make_chunk, lag=2)
    assert train(learners[2], own).figures["effective_samples"] == pytest.approx(1.0)
