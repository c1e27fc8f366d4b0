"""The scale of rewards of both streams, and who carries which filter."""

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
    """No history."""
    rollout = RolloutConfig(steps=T, lanes=B, batch_lanes=4 * B)
    ppo = PPOConfig(gamma_intrinsic=gamma, gamma_extrinsic=RETURN_GAMMA)
    return Normaliser(spaces, Config(rollout=rollout, ppo=ppo))


def bonuses(seed: int, places: int) -> np.ndarray:
    """float32 [T, places * B]."""
    return np.random.default_rng(seed).random((T, places * B), np.float32)


def lanes(place: int) -> slice:
    """The columns of one place of a batch."""
    return slice(place * B, (place + 1) * B)


def whole_lives(*slots: int, life: int = 0) -> tuple[np.ndarray, list[tuple[int, int, bool]]]:
    """No ends, each slot in the same incarnation, and no lane reset."""
    return np.zeros((T, len(slots) * B), np.bool_), [(slot, life, False) for slot in slots]


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
    """Of all samples together, with the prior's trace of a standard normal one."""
    every = np.concatenate([part.reshape(-1) for part in returns])
    count = PRIOR_COUNT + every.size
    return float(np.sqrt((PRIOR_COUNT + np.square(every).sum()) / count - (every.sum() / count) ** 2))


def test_the_first_batch_is_divided_by_a_std_that_knows_it() -> None:
    """The statistic is updated first; the raw bonus is divided, no mean is subtracted."""
    bonus = bonuses(0, 2)
    filtered, _ = forward_filter(np.zeros(2 * B), bonus, GAMMA)
    count = PRIOR_COUNT + filtered.size
    mean = filtered.sum() / count
    variance = (PRIOR_COUNT + np.square(filtered).sum()) / count - mean**2
    np.testing.assert_allclose(fresh().scale(bonus, [0, 1]), bonus / np.sqrt(variance), rtol=1e-5)


def test_all_lanes_share_one_divisor() -> None:
    """A lane with larger bonuses keeps larger rewards, also over several batches."""
    normaliser = fresh()
    for seed in range(3):
        bonus = bonuses(seed, 2) + np.arange(2 * B, dtype=np.float32)
        ratio = bonus / normaliser.scale(bonus, [0, 1])
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)


def test_a_lane_of_constant_bonus_is_filtered_over_time() -> None:
    """Constant per lane, it sums up to bonus / (1 - gamma): the std shows that time was the axis."""
    normaliser, bonus = fresh(0.99), np.tile(np.array([1.0, 2.0, 3.0], np.float32), (T, 1))
    for _ in range(500):
        normaliser.scale(bonus, [0])
    settled = np.array([1.0, 2.0, 3.0]) / (1 - 0.99)
    assert settled.std() * 0.8 < float(normaliser.intrinsic_return.std) < settled.std() * 1.2


def test_the_filter_continues_over_chunks() -> None:
    """Two batches move the statistic as one of twice the length does."""
    bonus, cut, whole = bonuses(0, 1), fresh(), fresh()
    cut.scale(bonus[:2], [0])
    cut.scale(bonus[2:], [0])
    whole.scale(bonus, [0])
    np.testing.assert_allclose(cut.intrinsic_return.var, whole.intrinsic_return.var, rtol=1e-9)
    np.testing.assert_allclose(cut.intrinsic_return.mean, whole.intrinsic_return.mean, rtol=1e-9)


def test_one_slot_in_two_places_is_one_lane_in_time() -> None:
    """Its second chunk of a batch continues the first: both placed side by side are in sequence."""
    bonus, side_by_side, in_time = bonuses(0, 2), fresh(), fresh()
    side_by_side.scale(bonus, [0, 0])
    in_time.scale(np.vstack([bonus[:, lanes(0)], bonus[:, lanes(1)]]), [0])
    np.testing.assert_allclose(side_by_side.intrinsic_return.var, in_time.intrinsic_return.var, rtol=1e-9)


def test_filters_belong_to_slots_and_outlive_batches_without_them() -> None:
    """Whoever fills slot 1 next inherits its filter; other slots do not touch it."""
    bonus, normaliser = bonuses(0, 2), fresh()
    normaliser.scale(bonus, [0, 1])
    kept = normaliser.state()["filter.1"].clone()
    normaliser.scale(bonuses(1, 2), [0, 2])
    assert torch.equal(normaliser.state()["filter.1"], kept)
    normaliser.scale(bonuses(2, 1), [1])
    expected = forward_filter(kept.numpy(), bonuses(2, 1), GAMMA)[1]
    np.testing.assert_allclose(normaliser.state()["filter.1"], expected)


def test_observations_are_counted_once() -> None:
    """s_0 to s_{T-1} of each chunk: neither the history rows nor s_T, which the next chunk brings."""
    stacked = fresh(spaces=Spaces((2,), 4, 5))
    observation = np.random.default_rng(0).normal(size=(4 + T, B, 2)).astype(np.float32)
    stacked.observe(observation)
    expected = Moments.prior((2,)).merge(Moments.of(observation[3:-1].reshape(-1, 2)))
    np.testing.assert_allclose(stacked.observation.mean, expected.mean)
    assert stacked.observation.count == pytest.approx(T * B, abs=1e-3)


def test_warm_up_parts_add_up() -> None:
    """Moments taken chunk by chunk are those of all chunks."""
    samples = np.random.default_rng(0).normal(size=(31, 2))
    normaliser = fresh()
    normaliser.merge_warmup([Moments.of(samples[:7]), Moments.of(samples[7:])])
    mean, std = normaliser.observation_statistics()
    assert mean.dtype is std.dtype is torch.float32
    np.testing.assert_allclose(mean, samples.mean(0), rtol=1e-3)
    np.testing.assert_allclose(std, samples.std(0), rtol=1e-3)


def test_a_restored_normaliser_goes_on_as_if_nothing_happened() -> None:
    """Everything it knows is in its state."""
    one, other = fresh(), fresh()
    one.observe(np.random.default_rng(0).normal(size=(T + 1, B, 2)).astype(np.float32))
    one.scale(bonuses(0, 2), [0, 5])
    one.scale_reward(bonuses(3, 2), *whole_lives(0, 5))
    other.load(one.state())
    for seed in (1, 2):
        np.testing.assert_array_equal(
            one.scale(bonuses(seed, 2), [5, 0]), other.scale(bonuses(seed, 2), [5, 0])
        )
        resumed = whole_lives(5, 0, life=1)  # every lane is reset, in a new incarnation
        np.testing.assert_array_equal(
            one.scale_reward(bonuses(seed, 2), *resumed), other.scale_reward(bonuses(seed, 2), *resumed)
        )
    for mine, theirs in zip(one.observation_statistics(), other.observation_statistics(), strict=True):
        assert torch.equal(mine, theirs)


def test_rewards_are_divided_by_the_deviation_of_returns_that_restart_after_an_end() -> None:
    reward = bonuses(0, 2) - np.float32(0.3)
    done, lives = whole_lives(0, 1)
    done[2, 0] = done[5, 0] = done[6, 4] = True
    found = fresh().scale_reward(reward, done, lives)
    expected = reward / deviation(running_returns(reward, done))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    through = reward / deviation(running_returns(reward, np.zeros_like(done)))
    assert not np.isclose(found, through, rtol=1e-3).any()


def test_an_end_in_the_last_row_restarts_the_return_of_the_next_chunk() -> None:
    reward, normaliser = bonuses(0, 1), fresh()
    done, lives = whole_lives(3)
    done[T - 1, 1] = True
    normaliser.scale_reward(reward, done, lives)
    found = normaliser.scale_reward(reward, done, lives)
    both = running_returns(np.vstack([reward, reward]), np.vstack([done, done]))
    np.testing.assert_allclose(found, reward / deviation(both), rtol=1e-6)


def test_returns_continue_over_chunks() -> None:
    reward, cut, whole = bonuses(0, 1), fresh(), fresh()
    done, lives = whole_lives(2)
    done[4, 0] = True
    for rows in (slice(0, 2), slice(2, T)):
        cut.scale_reward(reward[rows], done[rows], lives)
    whole.scale_reward(reward, done, lives)
    np.testing.assert_allclose(cut.extrinsic_return.var, whole.extrinsic_return.var, rtol=1e-9)


def test_one_slot_in_two_places_is_one_return_in_time() -> None:
    reward, side_by_side, in_time = bonuses(0, 2), fresh(), fresh()
    side_by_side.scale_reward(reward, *whole_lives(1, 1))
    for place in range(2):
        in_time.scale_reward(reward[:, lanes(place)], *whole_lives(1))
    np.testing.assert_allclose(side_by_side.extrinsic_return.var, in_time.extrinsic_return.var, rtol=1e-9)


def test_a_new_incarnation_restarts_the_returns_of_its_slot_alone() -> None:
    reward, normaliser = bonuses(0, 2), fresh()
    done, lives = whole_lives(0, 1)
    normaliser.scale_reward(reward, done, lives)
    found = normaliser.scale_reward(reward, done, [(0, 0, False), (1, 1, False)])
    first, twice = (
        running_returns(reward, done),
        running_returns(np.tile(reward, (2, 1)), np.tile(done, (2, 1))),
    )
    second = np.hstack([twice[T:, lanes(0)], first[:, lanes(1)]])
    np.testing.assert_allclose(found, reward / deviation(first, second), rtol=1e-6)


def test_lanes_that_are_reset_within_an_incarnation_restart_their_returns() -> None:
    reward, normaliser = bonuses(0, 2), fresh()
    done, lives = whole_lives(0, 1)
    normaliser.scale_reward(reward, done, lives)
    found = normaliser.scale_reward(reward, done, [(0, 0, False), (1, 0, True)])
    expected = fresh()
    expected.scale_reward(reward, done, lives)
    by_incarnation = expected.scale_reward(reward, done, [(0, 0, False), (1, 1, True)])
    np.testing.assert_array_equal(found, by_incarnation)


def test_all_lanes_share_one_scale_of_rewards_and_no_mean_is_subtracted() -> None:
    normaliser = fresh()
    for seed in range(3):
        reward = bonuses(seed, 2) + np.arange(1, 2 * B + 1, dtype=np.float32)
        ratio = reward / normaliser.scale_reward(reward, *whole_lives(0, 1))
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)


def test_a_scaled_reward_ends_at_ten_deviations() -> None:
    normaliser = fresh()
    for _ in range(200):
        normaliser.scale_reward(
            np.ones((T, B), np.float32) * np.array([1, -1, 0], np.float32), *whole_lives(0)
        )
    reward = np.zeros((T, B), np.float32)
    reward[0] = [1e3, -1e3, 1.0]
    found = normaliser.scale_reward(reward, *whole_lives(0))
    assert (found[0, 0], found[0, 1]) == (10.0, -10.0)
    assert 0.0 < found[0, 2] < 1.0
    assert not found[1:].any()


def test_the_streams_have_scales_of_their_own() -> None:
    one, other = fresh(), fresh()
    one.scale(bonuses(0, 1), [0])
    one.scale_reward(bonuses(1, 1) * 100, *whole_lives(0))
    other.scale(bonuses(0, 1), [0])
    assert float(one.intrinsic_return.std) == float(other.intrinsic_return.std)
    assert float(one.extrinsic_return.std) > 10 * float(one.intrinsic_return.std)
