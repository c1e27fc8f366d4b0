"""The scale of intrinsic rewards, and who carries which filter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.chunk import Spaces
from common.moments import PRIOR_COUNT, Moments, forward_filter
from learner.normaliser import Normaliser

T, B, GAMMA = 7, 3, 0.9
SPACES = Spaces((2,), 1, 5)


def fresh() -> Normaliser:
    """No history."""
    return Normaliser(SPACES, B, GAMMA)


def bonuses(seed: int, places: int) -> np.ndarray:
    """float32 [T, places * B]."""
    return np.random.default_rng(seed).random((T, places * B), np.float32)


def lanes(place: int) -> slice:
    """The columns of one place of a batch."""
    return slice(place * B, (place + 1) * B)


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
    normaliser, bonus = Normaliser(SPACES, B, 0.99), np.tile(np.array([1.0, 2.0, 3.0], np.float32), (T, 1))
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
    stacked = Normaliser(Spaces((2,), 4, 5), B, GAMMA)
    observation = np.random.default_rng(0).normal(size=(4 + T, B, 2)).astype(np.float32)
    stacked.observe(observation)
    expected = Moments.prior((2,)).merge(Moments.of(observation[3:-1].reshape(-1, 2)))
    np.testing.assert_allclose(stacked.observation.mean, expected.mean)
    assert stacked.observation.count == pytest.approx(T * B, abs=1e-3)


def test_warm_up_parts_add_up() -> None:
    """Moments taken chunk by chunk are those of all chunks."""
    samples = np.random.default_rng(0).normal(size=(31, 2))
    normaliser = fresh()
    normaliser.absorb([Moments.of(samples[:7]), Moments.of(samples[7:])])
    mean, std = normaliser.observation_statistics()
    assert mean.dtype is std.dtype is torch.float32
    np.testing.assert_allclose(mean, samples.mean(0), rtol=1e-3)
    np.testing.assert_allclose(std, samples.std(0), rtol=1e-3)


def test_a_restored_normaliser_goes_on_as_if_nothing_happened() -> None:
    """Everything it knows is in its state."""
    one, other = fresh(), fresh()
    one.observe(np.random.default_rng(0).normal(size=(T + 1, B, 2)).astype(np.float32))
    one.scale(bonuses(0, 2), [0, 5])
    other.load(one.state())
    for seed in (1, 2):
        np.testing.assert_array_equal(
            one.scale(bonuses(seed, 2), [5, 0]), other.scale(bonuses(seed, 2), [5, 0])
        )
    for mine, theirs in zip(one.observation_statistics(), other.observation_statistics(), strict=True):
        assert torch.equal(mine, theirs)
