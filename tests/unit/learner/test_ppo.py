"""One update, on vector tasks and tiny batches: what it must leave alone, and what it must change."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from common.config import Config, EnvConfig, PPOConfig, RNDConfig, RolloutConfig
from common.model import rnd
from common.model.bundle import Bundle
from common.model.policy import Policy
from common.protocol.chunk import Chunk
from common.spaces import Spaces
from learner.training.batch import Batch, make_batch
from learner.training.minibatches import draw_minibatches
from learner.training.ppo import FIGURES, PPO, UpdateReport

T, E = 8, 6
SPACES = Spaces((5,), 1, 3)
TORQUES = Spaces((5,), 1, 2, ((-1.0, 1.0),) * 2)
IMAGES = Spaces((84, 84), 4, 3)
CPU = torch.device("cpu")
CONFIG = Config(
    precision="float32",
    env=EnvConfig(reward="raw"),
    rollout=RolloutConfig(steps=T, lanes=2, batch_lanes=E),
    ppo=PPOConfig(epochs=2, minibatches=3, learning_rate=1e-3),
    rnd=RNDConfig(predictor_keep=0.5),
)
STATISTICS = torch.zeros(5), torch.ones(5)
IMAGE_STATISTICS = torch.full((84, 84), 128.0), torch.full((84, 84), 64.0)
Maker = Callable[..., Chunk]


def tuned(**options: object) -> Config:
    """The configuration with other PPO options."""
    return replace(CONFIG, ppo=replace(CONFIG.ppo, **options))  # type: ignore[arg-type]


def bundle(ppo: PPO, statistics: tuple[Tensor, Tensor] = STATISTICS) -> Bundle:
    """What actors would get."""
    return Bundle(0, 0, ppo.tensors() | dict(zip(("mean", "std"), statistics, strict=True)))


def batch_from(
    chunk: Chunk, spaces: Spaces, lag: int = 0, statistics: tuple[Tensor, Tensor] = STATISTICS
) -> Batch:
    """The chunk as a batch whose policy is this many versions behind."""
    lags = np.full(chunk.reward.shape[1], lag)
    return make_batch(chunk, lags, chunk.reward, chunk.bonus, spaces, statistics, CPU)


def train(ppo: PPO, batch: Batch, progress: float = 0.0) -> UpdateReport:
    """One update that must not fail."""
    report = ppo.update(batch, IMAGE_STATISTICS if batch.stack.dtype is torch.uint8 else STATISTICS, progress)
    assert report is not None
    return report


def batch_for(
    ppo: PPO, config: Config, make_chunk: Maker, seed: int = 0, spaces: Spaces = SPACES, lag: int = 0
) -> Batch:
    """A batch with ends whose actions the present policy took."""
    chunk = make_chunk(T, E, spaces, seed, terminated=[(1, 0), (5, 2)], truncated=[(3, 1), (7, 5)])
    actor = Policy(spaces, config)
    actor.load(bundle(ppo))
    uniform = np.random.default_rng(seed).random((T, E, *spaces.action), np.float32)
    for t in range(T):
        chunk.action[t], chunk.log_prob[t] = actor.act(chunk.observation[t, :, None], uniform[t])
    return batch_from(chunk, spaces, lag)


def updated(config: Config, make_chunk: Maker, updates: int = 1) -> tuple[PPO, list[UpdateReport]]:
    """A fresh learner after some updates, each on a batch of its own policy."""
    ppo = PPO(config, SPACES, CPU)
    reports = []
    for number in range(updates):
        batch = batch_for(ppo, config, make_chunk, number)
        reports.append(train(ppo, batch, number / 10))
    return ppo, reports


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_first_minibatch_has_ratio_1(make_chunk: Maker) -> None:
    """Learner and actor agree about log-probabilities, so nothing is clipped before the first step."""
    _, (report,) = updated(tuned(epochs=1, minibatches=1), make_chunk)
    assert report.figures["actor_learner_log_prob_diff_max"] < 1e-5
    assert report.figures["clip_fraction"] == 0.0
    assert abs(report.figures["approx_kl"]) < 1e-6


def test_the_canary_sees_a_foreign_policy(make_chunk: Maker) -> None:
    """Data of other weights shows in the difference of log-probabilities."""
    ppo, _ = updated(CONFIG, make_chunk)
    stranger = PPO(replace(CONFIG, seed=2), SPACES, CPU)
    assert (
        train(stranger, batch_for(ppo, CONFIG, make_chunk)).figures["actor_learner_log_prob_diff_max"] > 1e-3
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
    train(ppo, batch)
    train(other, replace(batch, intrinsic=batch.intrinsic * 100))
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
    losses = [train(ppo, batch).figures["predictor_loss"] for _ in range(20)]
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
    train(one, batch)
    train(other, replace(batch, next_observation=changed))
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
    other.load({name: value.clone() for name, value in one.state().items()})
    batch = batch_for(one, config, make_chunk, 7)
    reports = [train(ppo, batch, 0.2) for ppo in (one, other)]
    assert reports[0] == reports[1]
    assert same(one.tensors(), other.tensors())


def test_shuffled_minibatches_cover_each_pass_once() -> None:
    """Every step once per pass, in another order each time; the predictor sees those that its pass keeps."""
    kept = torch.rand(2, T * E) < 0.5
    minibatches = draw_minibatches(kept, T, E, CONFIG.ppo, torch.Generator(), CPU)
    assert [len(rows) for rows, _ in minibatches] == [T * E / 3] * 6
    passes = [torch.cat([rows for rows, _ in part]) for part in (minibatches[:3], minibatches[3:])]
    assert [sorted(rows.tolist()) for rows in passes] == [list(range(T * E))] * 2
    assert not torch.equal(*passes)
    for number, (rows, chosen) in enumerate(minibatches):
        assert chosen.tolist() == [row for row in rows.tolist() if kept[number // 3, row]]


def test_unshuffled_minibatches_are_blocks_of_whole_lanes() -> None:
    """As in the RND code: all T steps of neighbouring lanes."""
    seen = []
    kept = torch.zeros(1, T * E, dtype=torch.bool)
    ppo = tuned(shuffle=False, epochs=1).ppo
    for rows, chosen in draw_minibatches(kept, T, E, ppo, torch.Generator(), CPU):
        lanes = (rows % E).unique().tolist()
        assert set(rows.tolist()) == {t * E + lane for t in range(T) for lane in lanes}
        assert len(chosen) == 0
        seen.append(lanes)
    assert seen == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("progress", [0.0, 0.5, 0.999999])
def test_annealing_goes_to_zero_and_not_below(progress: float, make_chunk: Maker) -> None:
    """The learning rate follows the updates done; without annealing it stays."""
    ppo = PPO(tuned(anneal=True), SPACES, CPU)
    rate = train(ppo, batch_for(ppo, CONFIG, make_chunk), progress).learning_rate
    assert 0.0 < rate == pytest.approx(1e-3 * (1 - progress))
    steady = PPO(CONFIG, SPACES, CPU)
    assert train(steady, batch_for(steady, CONFIG, make_chunk), progress).learning_rate == 1e-3


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
        train(one, batch)
        train(other, replace(batch, final_stack=batch.final_stack + 3))
        assert same(one.tensors(), other.tensors()) == is_end


def image_batch(ppo: PPO, config: Config, make_chunk: Maker, seed: int = 0) -> Batch:
    """Stacks of images whose actions the present policy took."""
    chunk = make_chunk(2, 3, IMAGES, seed, truncated=[(0, 1)])
    actor = Policy(IMAGES, config)
    actor.load(bundle(ppo, IMAGE_STATISTICS))
    batch = batch_from(chunk, IMAGES, statistics=IMAGE_STATISTICS)
    for t in range(2):
        stack = batch.stack[t].movedim(-1, 1).numpy()
        chunk.action[t], chunk.log_prob[t] = actor.act(stack, chunk.bonus[t])
    return batch_from(chunk, IMAGES, statistics=IMAGE_STATISTICS)


def test_images_train_too(make_chunk: Maker) -> None:
    """One update on stacks of images: finite, and the canary agrees."""
    config = tuned(epochs=1, minibatches=1)
    ppo = PPO(config, IMAGES, CPU)
    figures = train(ppo, image_batch(ppo, config, make_chunk)).figures
    assert np.isfinite(list(figures.values())).all()
    assert figures["actor_learner_log_prob_diff_max"] < 1e-4


@pytest.mark.parametrize("spaces", [SPACES, TORQUES], ids=["discrete", "continuous"])
def test_fresh_data_trains_bit_for_bit_alike_whatever_lag_is_allowed(
    spaces: Spaces, make_chunk: Maker
) -> None:
    configs = [CONFIG, replace(CONFIG, max_lag=1), replace(CONFIG, max_lag=64), tuned(correct_lag=False)]
    learners = [PPO(config, spaces, CPU) for config in configs]
    for seed in range(2):
        batch = batch_for(learners[0], CONFIG, make_chunk, seed, spaces)
        reports = [train(ppo, batch) for ppo in learners]
        assert all(report == reports[0] for report in reports)
        assert all(same(ppo.tensors(), learners[0].tensors()) for ppo in learners)


def test_stale_data_trains_otherwise_than_the_same_data_taken_for_fresh(make_chunk: Maker) -> None:
    """Of the policy that begins the update both are the same but for rounding; of another one they differ."""
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
    of_its_own = batch_for(learners[2], config, make_chunk, lag=2)
    assert train(learners[2], of_its_own).figures["effective_samples"] == pytest.approx(1.0)


def everything(ppo: PPO) -> dict[str, object]:
    """Networks, and the optimiser with its counts, by copy."""
    return copy.deepcopy(
        {
            "policy": ppo.policy.state_dict(),
            "predictor": ppo.predictor.state_dict(),
            "optimiser": ppo.optimiser.state_dict(),
        }
    )


def equal(one: object, other: object) -> bool:
    """Equal bit for bit, however nested."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


SPOILT = {
    "reward that is no number": ("reward", math.nan),
    "infinite reward": ("reward", math.inf),
    "reward whose square overflows": ("reward", 1e30),
    "bonus that is no number": ("intrinsic", math.nan),
    "observation that is no number": ("next_observation", math.nan),
}


@pytest.mark.parametrize("updates", [0, 2])
@pytest.mark.parametrize(("name", "value"), SPOILT.values(), ids=SPOILT)
def test_an_update_that_is_not_finite_leaves_networks_and_optimiser_as_they_were(
    name: str, value: float, updates: int, make_chunk: Maker
) -> None:
    """One bad number in the last step of the last lane is enough; the next batch trains as if nothing was."""
    config = replace(CONFIG, rnd=RNDConfig(predictor_keep=1.0))
    (ppo, _), (calm, _) = (updated(config, make_chunk, updates) for _ in range(2))
    batch = batch_for(ppo, config, make_chunk, 7)
    spoilt = getattr(batch, name).clone()
    spoilt[-1, -1] = value
    before, draws = everything(ppo), ppo.generator.get_state()
    assert ppo.update(replace(batch, **{name: spoilt}), STATISTICS, 0.0) is None
    assert equal(everything(ppo), before)
    ppo.generator.set_state(draws)
    assert train(ppo, batch) == train(calm, batch)
    assert equal(everything(ppo), everything(calm))
    assert not equal(everything(ppo), before)


def test_an_update_that_overflows_on_its_way_is_undone(make_chunk: Maker) -> None:
    """The first minibatches are fine and have moved every weight when a later one is not."""
    config = tuned(learning_rate=1e30, max_grad_norm=0.0)
    ppo = PPO(config, SPACES, CPU)
    before = everything(ppo)
    assert ppo.update(batch_for(ppo, config, make_chunk), STATISTICS, 0.0) is None
    assert equal(everything(ppo), before)


def test_an_undone_update_on_images_leaves_moments_where_they_belong(make_chunk: Maker) -> None:
    """The next update equals that of a learner which never failed."""
    config = tuned(epochs=1, minibatches=1)
    ppo, calm = PPO(config, IMAGES, CPU), PPO(config, IMAGES, CPU)
    first = image_batch(ppo, config, make_chunk)
    for learner in (ppo, calm):
        train(learner, first)
    draws = ppo.generator.get_state()
    spoilt = replace(first, reward=first.reward * math.nan)
    assert ppo.update(spoilt, IMAGE_STATISTICS, 0.0) is None
    ppo.generator.set_state(draws)
    second = image_batch(calm, config, make_chunk, 1)
    assert train(ppo, second) == train(calm, second)
    assert equal(everything(ppo), everything(calm))


def gaussian_step(make_chunk: Maker, good: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Change of one state's means and of log deviations, [2] each; `good` rates standardised actions."""
    config = replace(
        tuned(gamma_extrinsic=0.0, normalise_advantages=True, entropy_coef=0.0), rnd=RNDConfig(enabled=False)
    )
    ppo = PPO(config, TORQUES, CPU)
    batch = batch_for(ppo, config, make_chunk, spaces=TORQUES)
    batch = replace(
        batch, stack=batch.stack[:1, :1].expand_as(batch.stack).clone()
    )  # one state, many actions
    stack = batch.stack[0, :1].movedim(-1, 1)

    def parameters() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            mean, log_std = ppo.policy(stack).parameters.chunk(2, 1)
        return mean[0].clone(), log_std[0].clone()

    mean, log_std = parameters()
    z = (batch.action.flatten(0, 1) - mean) * torch.exp(-log_std)
    train(ppo, replace(batch, reward=good(z).float().view(T, E)))
    after, after_std = parameters()
    return after - mean, after_std - log_std


def to_one_side(sign: float, z: Tensor) -> Tensor:
    """1 where the first number is beyond the mean on the side of `sign`, -1 elsewhere."""
    return (z[:, 0] * sign > 0) * 2.0 - 1.0


def in_the_tails(sign: float, z: Tensor) -> Tensor:
    """`sign` where the numbers are far from the mean, 0 elsewhere."""
    return (z.abs().mean(1) > 0.8) * sign


def test_a_gaussian_policy_moves_its_mean_to_the_side_that_pays(make_chunk: Maker) -> None:
    for sign in (1.0, -1.0):
        moved, _ = gaussian_step(make_chunk, partial(to_one_side, sign))
        assert moved[0] * sign > 2 * moved[1].abs()


def test_a_gaussian_policy_narrows_where_the_middle_pays_and_widens_where_the_tails_do(
    make_chunk: Maker,
) -> None:
    for sign in (1.0, -1.0):
        _, spread = gaussian_step(make_chunk, partial(in_the_tails, sign))
        assert (spread * sign > 0).all()


def test_actor_and_learner_agree_about_gaussian_actions(make_chunk: Maker) -> None:
    config = tuned(epochs=1, minibatches=1)
    ppo = PPO(config, TORQUES, CPU)
    figures = train(ppo, batch_for(ppo, config, make_chunk, spaces=TORQUES)).figures
    assert figures["actor_learner_log_prob_diff_max"] < 1e-5
    assert figures["clip_fraction"] == 0.0
    assert figures["entropy"] == pytest.approx(2 * 0.5 * math.log(2 * math.pi * math.e))
