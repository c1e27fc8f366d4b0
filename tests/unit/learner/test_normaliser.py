"""The scale of the rewards of both streams, and the filter of each lane."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.config import Config, PPOConfig, RolloutConfig
from common.spaces import Spaces
from learner.training.normaliser import Normaliser
from learner.training.running_stats import PRIOR_COUNT, Moments, forward_filter

T, B, GAMMA, RETURN_GAMMA = 7, 3, 0.9, 0.8
SPACES = Spaces((2,), 1, 5)


def fresh(gamma: float = GAMMA, spaces: Spaces = SPACES) -> Normaliser:
    """A normaliser without history."""
    rollout = RolloutConfig(steps=T, lanes=B, batch_lanes=4 * B)
    ppo = PPOConfig(gamma_intrinsic=gamma, gamma_extrinsic=RETURN_GAMMA)
    return Normaliser(spaces, Config(rollout=rollout, ppo=ppo))


def bonuses(seed: int, chunks: int) -> np.ndarray:
    """Uniform noise, float32 [T, chunks * B]."""
    return np.random.default_rng(seed).random((T, chunks * B), np.float32)


def lanes(index: int) -> slice:
    """The columns of one chunk of a batch."""
    return slice(index * B, (index + 1) * B)


def no_ends(*slots: int, incarnation: int = 0) -> tuple[np.ndarray, list[tuple[int, int, bool]]]:
    """No ends; every slot has the same incarnation, and no lane is reset."""
    return np.zeros((T, len(slots) * B), np.bool_), [(slot, incarnation, False) for slot in slots]


def running_returns(reward: np.ndarray, done: np.ndarray) -> np.ndarray:
    """The discounted sum of each lane's rewards since its last end, one lane and step at a time."""
    out = np.zeros(reward.shape)
    for lane in range(reward.shape[1]):
        total = 0.0
        for t in range(len(reward)):
            total = RETURN_GAMMA * total + float(reward[t, lane])
            out[t, lane] = total
            total = 0.0 if done[t, lane] else total
    return out


def deviation(*returns: np.ndarray) -> float:
    """The standard deviation of all samples and the prior together."""
    every = np.concatenate([part.reshape(-1) for part in returns])
    count = PRIOR_COUNT + every.size
    return float(np.sqrt((PRIOR_COUNT + np.square(every).sum()) / count - (every.sum() / count) ** 2))


def test_the_first_batch_is_divided_by_a_std_that_includes_it() -> None:
    """The statistic is updated first; the raw bonus is divided, no mean is subtracted."""
    bonus = bonuses(0, 2)
    filtered, _ = forward_filter(np.zeros(2 * B), bonus, GAMMA)
    count = PRIOR_COUNT + filtered.size
    mean = filtered.sum() / count
    variance = (PRIOR_COUNT + np.square(filtered).sum()) / count - mean**2
    np.testing.assert_allclose(fresh().scale_bonus(bonus, [0, 1]), bonus / np.sqrt(variance), rtol=1e-5)


def test_all_lanes_share_one_divisor() -> None:
    """A lane with larger bonuses keeps larger rewards, also over several batches."""
    normaliser = fresh()
    for seed in range(3):
        bonus = bonuses(seed, 2) + np.arange(2 * B, dtype=np.float32)
        ratio = bonus / normaliser.scale_bonus(bonus, [0, 1])
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)


def test_a_lane_of_constant_bonus_is_filtered_over_time() -> None:
    """A constant bonus fills its filter up to bonus / (1 - gamma); the std shows that the axis is time."""
    normaliser, bonus = fresh(0.99), np.tile(np.array([1.0, 2.0, 3.0], np.float32), (T, 1))
    for _ in range(500):
        normaliser.scale_bonus(bonus, [0])
    settled = np.array([1.0, 2.0, 3.0]) / (1 - 0.99)
    assert settled.std() * 0.8 < float(normaliser.intrinsic_return.std) < settled.std() * 1.2


def test_the_filter_continues_over_chunks() -> None:
    """Two short batches change the statistic as one long batch does."""
    bonus, split, whole = bonuses(0, 1), fresh(), fresh()
    split.scale_bonus(bonus[:2], [0])
    split.scale_bonus(bonus[2:], [0])
    whole.scale_bonus(bonus, [0])
    np.testing.assert_allclose(split.intrinsic_return.var, whole.intrinsic_return.var, rtol=1e-9)
    np.testing.assert_allclose(split.intrinsic_return.mean, whole.intrinsic_return.mean, rtol=1e-9)


def test_two_chunks_of_one_slot_continue_one_filter() -> None:
    """The second chunk of a batch continues the filter of the first one."""
    bonus, side_by_side, in_time = bonuses(0, 2), fresh(), fresh()
    side_by_side.scale_bonus(bonus, [0, 0])
    in_time.scale_bonus(np.vstack([bonus[:, lanes(0)], bonus[:, lanes(1)]]), [0])
    np.testing.assert_allclose(side_by_side.intrinsic_return.var, in_time.intrinsic_return.var, rtol=1e-9)


def test_filters_belong_to_slots_and_persist_over_batches_without_them() -> None:
    """The next chunk of slot 1 continues its filter; chunks of other slots do not change it."""
    bonus, normaliser = bonuses(0, 2), fresh()
    normaliser.scale_bonus(bonus, [0, 1])
    kept = normaliser.state()["filter.1"].clone()
    normaliser.scale_bonus(bonuses(1, 2), [0, 2])
    assert torch.equal(normaliser.state()["filter.1"], kept)
    normaliser.scale_bonus(bonuses(2, 1), [1])
    expected = forward_filter(kept.numpy(), bonuses(2, 1), GAMMA)[1]
    np.testing.assert_allclose(normaliser.state()["filter.1"], expected)


def test_observations_are_counted_once() -> None:
    """s_0 to s_{T-1} of each chunk: neither the history rows nor s_T, which is in the next chunk."""
    stacked = fresh(spaces=Spaces((2,), 4, 5))
    observation = np.random.default_rng(0).normal(size=(4 + T, B, 2)).astype(np.float32)
    stacked.observe(observation)
    expected = Moments.prior((2,)).merge(Moments.of(observation[3:-1].reshape(-1, 2)))
    np.testing.assert_allclose(stacked.observation.mean, expected.mean)
    assert stacked.observation.count == pytest.approx(T * B, abs=1e-3)


def test_warm_up_moments_of_parts_are_those_of_all_samples() -> None:
    """Moments taken chunk by chunk are those of all chunks."""
    samples = np.random.default_rng(0).normal(size=(31, 2))
    normaliser = fresh()
    normaliser.merge_warmup([Moments.of(samples[:7]), Moments.of(samples[7:])])
    mean, std = normaliser.observation_statistics()
    assert mean.dtype is std.dtype is torch.float32
    np.testing.assert_allclose(mean, samples.mean(0), rtol=1e-3)
    np.testing.assert_allclose(std, samples.std(0), rtol=1e-3)


def test_a_restored_normaliser_continues_like_the_uninterrupted_one() -> None:
    """Its state is complete."""
    one, other = fresh(), fresh()
    one.observe(np.random.default_rng(0).normal(size=(T + 1, B, 2)).astype(np.float32))
    one.scale_bonus(bonuses(0, 2), [0, 5])
    one.scale_reward(bonuses(3, 2), *no_ends(0, 5))
    other.load(one.state())
    for seed in (1, 2):
        np.testing.assert_array_equal(
            one.scale_bonus(bonuses(seed, 2), [5, 0]), other.scale_bonus(bonuses(seed, 2), [5, 0])
        )
        resumed = no_ends(5, 0, incarnation=1)  # every lane is reset, in a new incarnation
        np.testing.assert_array_equal(
            one.scale_reward(bonuses(seed, 2), *resumed), other.scale_reward(bonuses(seed, 2), *resumed)
        )
    for mine, theirs in zip(one.observation_statistics(), other.observation_statistics(), strict=True):
        assert torch.equal(mine, theirs)


def test_rewards_are_divided_by_the_deviation_of_returns_that_restart_after_an_end() -> None:
    reward = bonuses(0, 2) - np.float32(0.3)
    done, incarnations = no_ends(0, 1)
    done[2, 0] = done[5, 0] = done[6, 4] = True
    found = fresh().scale_reward(reward, done, incarnations)
    expected = reward / deviation(running_returns(reward, done))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    through = reward / deviation(running_returns(reward, np.zeros_like(done)))
    assert not np.isclose(found, through, rtol=1e-3).any()


def test_an_end_in_the_last_row_restarts_the_return_of_the_next_chunk() -> None:
    reward, normaliser = bonuses(0, 1), fresh()
    done, incarnations = no_ends(3)
    done[T - 1, 1] = True
    normaliser.scale_reward(reward, done, incarnations)
    found = normaliser.scale_reward(reward, done, incarnations)
    both = running_returns(np.vstack([reward, reward]), np.vstack([done, done]))
    np.testing.assert_allclose(found, reward / deviation(both), rtol=1e-6)


def test_returns_continue_over_chunks() -> None:
    reward, split, whole = bonuses(0, 1), fresh(), fresh()
    done, incarnations = no_ends(2)
    done[4, 0] = True
    for rows in (slice(0, 2), slice(2, T)):
        split.scale_reward(reward[rows], done[rows], incarnations)
    whole.scale_reward(reward, done, incarnations)
    np.testing.assert_allclose(split.extrinsic_return.var, whole.extrinsic_return.var, rtol=1e-9)


def test_two_chunks_of_one_slot_continue_one_return() -> None:
    reward, side_by_side, in_time = bonuses(0, 2), fresh(), fresh()
    side_by_side.scale_reward(reward, *no_ends(1, 1))
    for index in range(2):
        in_time.scale_reward(reward[:, lanes(index)], *no_ends(1))
    np.testing.assert_allclose(side_by_side.extrinsic_return.var, in_time.extrinsic_return.var, rtol=1e-9)


def test_a_new_incarnation_restarts_the_returns_of_its_slot_alone() -> None:
    reward, normaliser = bonuses(0, 2), fresh()
    done, incarnations = no_ends(0, 1)
    normaliser.scale_reward(reward, done, incarnations)
    found = normaliser.scale_reward(reward, done, [(0, 0, False), (1, 1, False)])
    first, twice = (
        running_returns(reward, done),
        running_returns(np.tile(reward, (2, 1)), np.tile(done, (2, 1))),
    )
    second = np.hstack([twice[T:, lanes(0)], first[:, lanes(1)]])
    np.testing.assert_allclose(found, reward / deviation(first, second), rtol=1e-6)


def test_lanes_that_are_reset_within_an_incarnation_restart_their_returns() -> None:
    reward, normaliser = bonuses(0, 2), fresh()
    done, incarnations = no_ends(0, 1)
    normaliser.scale_reward(reward, done, incarnations)
    found = normaliser.scale_reward(reward, done, [(0, 0, False), (1, 0, True)])
    expected = fresh()
    expected.scale_reward(reward, done, incarnations)
    by_incarnation = expected.scale_reward(reward, done, [(0, 0, False), (1, 1, True)])
    np.testing.assert_array_equal(found, by_incarnation)


def test_all_lanes_share_one_scale_of_rewards_and_no_mean_is_subtracted() -> None:
    normaliser = fresh()
    for seed in range(3):
        reward = bonuses(seed, 2) + np.arange(1, 2 * B + 1, dtype=np.float32)
        ratio = reward / normaliser.scale_reward(reward, *no_ends(0, 1))
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)


def test_a_scaled_reward_is_clipped_at_ten_deviations() -> None:
    normaliser = fresh()
    for _ in range(200):
        normaliser.scale_reward(np.ones((T, B), np.float32) * np.array([1, -1, 0], np.float32), *no_ends(0))
    reward = np.zeros((T, B), np.float32)
    reward[0] = [1e3, -1e3, 1.0]
    found = normaliser.scale_reward(reward, *no_ends(0))
    assert (found[0, 0], found[0, 1]) == (10.0, -10.0)
    assert 0.0 < found[0, 2] < 1.0
    assert not found[1:].any()


def test_each_stream_has_its_own_scale() -> None:
    one, other = fresh(), fresh()
    one.scale_bonus(bonuses(0, 1), [0])
    one.scale_reward(bonuses(1, 1) * 100, *no_ends(0))
    other.scale_bonus(bonuses(0, 1), [0])
    assert float(one.intrinsic_return.std) == float(other.intrinsic_return.std)
    assert float(one.extrinsic_return.std) > 10 * float(one.intrinsic_return.std)
