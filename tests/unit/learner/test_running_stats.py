"""Running statistics, compared with the statistics of all samples at once."""

from __future__ import annotations

import numpy as np
import pytest

from learner.training.running_stats import PRIOR_COUNT, Moments, forward_filter

T, B = 5, 3


def test_merging_parts_equals_taking_all_at_once() -> None:
    """Mean and variance do not depend on the split of the samples."""
    samples = np.random.default_rng(0).normal(7.0, 3.0, (31, B))
    merged = Moments.of(samples[:2])
    for start, stop in ((2, 3), (3, 17), (17, 31)):
        merged = merged.merge(Moments.of(samples[start:stop]))
    assert merged.count == 31
    np.testing.assert_allclose(merged.mean, samples.mean(0), rtol=1e-13)
    np.testing.assert_allclose(merged.var, samples.var(0), rtol=1e-12)


def test_byte_sums_are_exact_and_independent_of_order() -> None:
    """The moments of images are equal bit for bit in any order, and equal to those of integers."""
    rng = np.random.default_rng(1)
    samples = rng.integers(0, 256, (601, 7, 2), np.uint8)
    samples[:, 0, 0] = 255  # the largest sum of squares
    forward, shuffled = Moments.of(samples), Moments.of(rng.permutation(samples))
    np.testing.assert_array_equal(forward.var, shuffled.var)
    wide = samples.astype(np.int64)
    np.testing.assert_array_equal(forward.mean, wide.sum(0) / 601)
    np.testing.assert_allclose(forward.var, wide.var(0), rtol=1e-12, atol=1e-9)
    assert forward.var[0, 0] == 0.0


def test_the_prior_gives_a_constant_pixel_a_tiny_deviation() -> None:
    """A division needs no epsilon, and the first change of a constant pixel is many deviations."""
    pixel = Moments.prior((1,)).merge(Moments.of(np.full((10_007, 1), 100, np.uint8)))
    expected = np.sqrt(PRIOR_COUNT * (1 + 100.0**2) / 10_007)
    np.testing.assert_allclose(pixel.std, expected, rtol=1e-3)
    assert pixel.std > 0


def test_an_empty_array_has_no_moments() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Moments.of(np.zeros((0, B)))


def test_the_filter_is_the_discounted_sum_of_the_past() -> None:
    """Each value is the explicit sum over all earlier rows of its own lane."""
    reward, carry, gamma = np.random.default_rng(2).random((T, B)), np.array([1.0, 2.0, 3.0]), 0.9
    filtered, last = forward_filter(carry, reward, gamma)
    slow = np.array(
        [
            [
                gamma ** (t + 1) * carry[b] + sum(gamma ** (t - k) * reward[k, b] for k in range(t + 1))
                for b in range(B)
            ]
            for t in range(T)
        ]
    )
    np.testing.assert_allclose(filtered, slow, rtol=1e-12)
    np.testing.assert_array_equal(last, filtered[-1])


def test_a_filter_continues_over_chunks() -> None:
    """The carry of one chunk is all that the next one needs."""
    reward = np.random.default_rng(3).random((T, B))
    whole, end = forward_filter(np.zeros(B), reward, 0.99)
    first, carry = forward_filter(np.zeros(B), reward[:2], 0.99)
    second, last = forward_filter(carry, reward[2:], 0.99)
    np.testing.assert_array_equal(np.vstack([first, second]), whole)
    np.testing.assert_array_equal(last, end)


def test_a_transposed_reward_is_refused() -> None:
    """[B, T] where [T, B] belongs raises instead of filtering over lanes."""
    with pytest.raises(ValueError, match=r"expected reward \[T, 3\]"):
        forward_filter(np.zeros(B), np.zeros((B, T)), 0.9)


def test_a_filter_with_ends_restarts_after_each() -> None:
    rng = np.random.default_rng(4)
    reward, carry, gamma = rng.random((T, B)), np.array([1.0, 2.0, 3.0]), 0.9
    done = np.zeros((T, B), np.bool_)
    done[1, 0] = done[2, 0] = done[T - 1, 1] = True
    filtered, last = forward_filter(carry, reward, gamma, done)
    slow = np.zeros((T, B))
    for lane in range(B):
        total = carry[lane]
        for t in range(T):
            total = slow[t, lane] = gamma * total + reward[t, lane]
            total = 0.0 if done[t, lane] else total
    np.testing.assert_allclose(filtered, slow, rtol=1e-12)
    np.testing.assert_array_equal(last, np.where(done[-1], 0.0, filtered[-1]))
    assert last[1] == 0.0 < last[0]
