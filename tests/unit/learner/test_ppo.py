"""One update, on vector tasks and tiny batches: what it must leave alone, and what it must change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from common import rnd
from common.chunk import Bundle, Chunk, Spaces
from common.config import Config, EnvConfig, PPOConfig, RNDConfig, RolloutConfig
from common.policy import Policy
from learner.batch import Batch, make_batch
from learner.ppo import FIGURES, PPO, Report

T, E = 8, 6
SPACES = Spaces((5,), 1, 3)
CPU = torch.device("cpu")
CONFIG = Config(
    precision="float32",
    env=EnvConfig(reward="raw"),
    rollout=RolloutConfig(steps=T, lanes=2, batch_lanes=E),
    ppo=PPOConfig(epochs=2, minibatches=3, learning_rate=1e-3),
    rnd=RNDConfig(predictor_keep=0.5),
)
STATISTICS = torch.zeros(5), torch.ones(5)
Maker = Callable[..., Chunk]


def tuned(**options: object) -> Config:
    """The configuration with other PPO options."""
    return replace(CONFIG, ppo=replace(CONFIG.ppo, **options))  # type: ignore[arg-type]


def bundle(ppo: PPO) -> Bundle:
    """What actors would get."""
    return Bundle(0, 0, ppo.tensors() | dict(zip(("mean", "std"), STATISTICS, strict=True)))


def batch_for(ppo: PPO, config: Config, make_chunk: Maker, seed: int = 0, spaces: Spaces = SPACES) -> Batch:
    """A batch with ends whose actions the present policy took."""
    chunk = make_chunk(T, E, spaces, seed, terminated=[(1, 0), (5, 2)], truncated=[(3, 1), (7, 5)])
    actor = Policy(spaces, config)
    actor.load(bundle(ppo))
    for t in range(T):
        stack = chunk.observation[t, :, None]
        chunk.action[t], chunk.log_prob[t] = actor.act(stack, chunk.bonus[t])
    return make_batch(chunk, chunk.bonus, spaces, STATISTICS, False, CPU)


def updated(config: Config, make_chunk: Maker, updates: int = 1) -> tuple[PPO, list[Report]]:
    """A fresh learner after some updates, each on a batch of its own policy."""
    ppo = PPO(config, SPACES, CPU)
    reports = []
    for number in range(updates):
        batch = batch_for(ppo, config, make_chunk, number)
        reports.append(ppo.update(batch, STATISTICS, number / 10))
    return ppo, reports


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_first_minibatch_has_ratio_1(make_chunk: Maker) -> None:
    """Learner and actor agree about log-probabilities, so nothing is clipped before the first step."""
    _, (report,) = updated(tuned(epochs=1, minibatches=1), make_chunk)
    assert report.figures["log_prob_canary"] < 1e-5
    assert report.figures["clip_fraction"] == 0.0
    assert abs(report.figures["approx_kl"]) < 1e-6


def test_the_canary_sees_a_foreign_policy(make_chunk: Maker) -> None:
    """Data of other weights shows in the difference of log-probabilities."""
    ppo, _ = updated(CONFIG, make_chunk)
    stranger = PPO(replace(CONFIG, seed=2), SPACES, CPU)
    assert (
        stranger.update(batch_for(ppo, CONFIG, make_chunk), STATISTICS, 0.0).figures["log_prob_canary"] > 1e-3
    )


def test_figures_are_finite_and_complete(make_chunk: Maker) -> None:
    """Every name of the record, with and without a bonus."""
    for config in (CONFIG, replace(CONFIG, rnd=RNDConfig(enabled=False))):
        figures = updated(config, make_chunk)[1][0].figures
        assert figures.keys() >= set(FIGURES)
        assert np.isfinite(list(figures.values())).all()


def test_an_update_changes_policy_and_predictor_and_never_the_target(make_chunk: Maker) -> None:
    """The target is what the predictor chases; moving it would make every state novel again."""
    fresh, (ppo, _) = PPO(CONFIG, SPACES, CPU), updated(CONFIG, make_chunk, 2)
    assert same(fresh.target.state_dict(), ppo.target.state_dict())
    before, after = fresh.tensors(), ppo.tensors()
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_without_a_bonus_there_is_no_predictor(make_chunk: Maker) -> None:
    """It is neither trained nor shipped, and intrinsic rewards move nothing."""
    config = replace(CONFIG, rnd=RNDConfig(enabled=False))
    ppo = PPO(config, SPACES, CPU)
    other = PPO(config, SPACES, CPU)
    batch = batch_for(ppo, config, make_chunk)
    ppo.update(batch, STATISTICS, 0.0)
    other.update(replace(batch, intrinsic=batch.intrinsic * 100), STATISTICS, 0.0)
    assert same(ppo.tensors(), other.tensors())
    assert not any(name.startswith("predictor") for name in ppo.tensors())
    assert same(ppo.predictor.state_dict(), PPO(config, SPACES, CPU).predictor.state_dict())


def test_novelty_falls_on_what_was_seen(make_chunk: Maker) -> None:
    """With keep 1 the prediction error on fixed data shrinks, and on other data less so."""
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
    losses = [ppo.update(batch, STATISTICS, 0.0).figures["predictor_loss"] for _ in range(20)]
    assert losses[-1] < 0.3 * losses[0]
    assert novelty(seen) < 0.3 * before[0]
    assert novelty(foreign) / before[1] > 2 * novelty(seen) / before[0]


def test_the_predictor_learns_from_the_kept_share_alone(make_chunk: Maker) -> None:
    """What is not kept has no target, no loss and no influence."""
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
    one.update(batch, STATISTICS, 0.0)
    other.update(replace(batch, next_observation=changed), STATISTICS, 0.0)
    assert same(one.tensors(), other.tensors())


def test_equal_seeds_give_equal_updates(make_chunk: Maker) -> None:
    """Bit for bit; another seed gives other weights."""
    (one, a), (two, b), (three, _) = (
        updated(config, make_chunk, 3) for config in (CONFIG, CONFIG, replace(CONFIG, seed=2))
    )
    assert same(one.tensors(), two.tensors())
    assert [report.figures for report in a] == [report.figures for report in b]
    assert not same(one.tensors(), three.tensors())


@pytest.mark.parametrize("enabled", [True, False], ids=["with bonus", "without"])
def test_a_restored_learner_updates_like_the_uninterrupted_one(enabled: bool, make_chunk: Maker) -> None:
    """Networks, optimiser and random draws are all of its state."""
    config = replace(CONFIG, rnd=RNDConfig(enabled=enabled))
    one, _ = updated(config, make_chunk, 2)
    other = PPO(replace(config, seed=2), SPACES, CPU)
    state = one.optimiser.state_dict()["state"]
    optimiser = {
        f"{i}.{name}": value.clone() for i, values in state.items() for name, value in values.items()
    }
    target = {name: value.clone() for name, value in one.target.state_dict().items()}
    model = {name: value.clone() for name, value in one.tensors().items()}
    other.load(model, target, optimiser, one.generator.get_state())
    batch = batch_for(one, config, make_chunk, 7)
    reports = [ppo.update(batch, STATISTICS, 0.2) for ppo in (one, other)]
    assert reports[0] == reports[1]
    assert same(one.tensors(), other.tensors())


def test_shuffled_minibatches_cover_each_pass_once() -> None:
    """Every step once per pass, in another order each time."""
    passes: dict[int, list[int]] = {}
    for number, rows in PPO(CONFIG, SPACES, CPU)._minibatches(T, E):
        assert len(rows) == T * E / 3
        passes.setdefault(number, []).extend(rows.tolist())
    assert [sorted(rows) for rows in passes.values()] == [list(range(T * E))] * 2
    assert passes[0] != passes[1]


def test_unshuffled_minibatches_are_blocks_of_whole_lanes() -> None:
    """As in the RND code: all T steps of neighbouring lanes."""
    seen = []
    for _, rows in PPO(tuned(shuffle=False, epochs=1), SPACES, CPU)._minibatches(T, E):
        lanes = (rows % E).unique().tolist()
        assert set(rows.tolist()) == {t * E + lane for t in range(T) for lane in lanes}
        seen.append(lanes)
    assert seen == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("progress", [0.0, 0.5, 0.999999])
def test_annealing_goes_to_zero_and_not_below(progress: float, make_chunk: Maker) -> None:
    """The learning rate follows the updates done; without annealing it stays."""
    ppo = PPO(tuned(anneal=True), SPACES, CPU)
    rate = ppo.update(batch_for(ppo, CONFIG, make_chunk), STATISTICS, progress).learning_rate
    assert 0.0 < rate == pytest.approx(1e-3 * (1 - progress))
    steady = PPO(CONFIG, SPACES, CPU)
    assert steady.update(batch_for(steady, CONFIG, make_chunk), STATISTICS, progress).learning_rate == 1e-3


def test_the_predictor_does_not_disturb_the_policy(make_chunk: Maker) -> None:
    """Gradients are bounded separately: how much of the batch it learns from changes no policy weight."""
    weights = []
    for keep in (1e-9, 1.0):
        config = replace(tuned(max_grad_norm=0.01), rnd=RNDConfig(predictor_keep=keep))
        ppo, _ = updated(config, make_chunk)
        weights.append({k: v for k, v in ppo.tensors().items() if k.startswith("policy")})
    assert same(*weights)


def test_a_time_limit_bootstraps_from_the_final_observation(make_chunk: Maker) -> None:
    """It matters what a cut game last showed, unless a time limit counts as an end."""
    for is_end in (False, True):
        config = replace(CONFIG, env=replace(CONFIG.env, time_limit_is_end=is_end))
        one, other = PPO(config, SPACES, CPU), PPO(config, SPACES, CPU)
        batch = batch_for(one, config, make_chunk)
        one.update(batch, STATISTICS, 0.0)
        other.update(replace(batch, final_stack=batch.final_stack + 3), STATISTICS, 0.0)
        assert same(one.tensors(), other.tensors()) == is_end


def test_images_train_too(make_chunk: Maker) -> None:
    """One update on stacks of images: finite, and the canary agrees."""
    spaces = Spaces((84, 84), 4, 3)
    ppo = PPO(tuned(epochs=1, minibatches=1), spaces, CPU)
    chunk = make_chunk(2, 3, spaces, 0, truncated=[(0, 1)])
    actor = Policy(spaces, CONFIG)
    statistics = torch.full((84, 84), 128.0), torch.full((84, 84), 64.0)
    actor.load(Bundle(0, 0, ppo.tensors() | dict(zip(("mean", "std"), statistics, strict=True))))
    batch = make_batch(chunk, chunk.bonus, spaces, statistics, True, CPU)
    for t in range(2):
        stack = batch.stack[t].movedim(-1, 1).numpy()
        chunk.action[t], chunk.log_prob[t] = actor.act(stack, chunk.bonus[t])
    batch = make_batch(chunk, chunk.bonus, spaces, statistics, True, CPU)
    figures = ppo.update(batch, statistics, 0.0).figures
    assert np.isfinite(list(figures.values())).all()
    assert figures["log_prob_canary"] < 1e-4
