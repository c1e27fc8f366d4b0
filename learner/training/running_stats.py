"""Running mean and variance, and the discounted forward filter, as pure functions in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

PRIOR_COUNT = 1e-4  # Burda et al. 2018, code: almost no weight, so constant pixels get a tiny std
_EXACT_ROWS = 256  # 256 x 255^2 < 2^24: float32 sums of squared uint8 are exact in any order


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Count, mean and population variance of everything merged so far, per element."""

    count: float
    mean: F64
    var: F64

    @staticmethod
    def prior(shape: tuple[int, ...]) -> Moments:
        """Return mean 0 and variance 1 with the weight of `PRIOR_COUNT` samples."""
        return Moments(PRIOR_COUNT, np.zeros(shape), np.ones(shape))

    @staticmethod
    def of(samples: npt.NDArray[np.generic]) -> Moments:
        """Compute the moments of `samples` [N, ...] over the first axis; sums of uint8 are exact.

        Raises:
            ValueError: there is no sample.
        """
        if len(samples) == 0:
            raise ValueError("expected at least one sample, got none")
        if samples.dtype != np.uint8:
            wide = samples.astype(np.float64)
            return Moments(len(wide), wide.mean(0), wide.var(0))
        total = np.zeros(samples.shape[1:])
        square = np.zeros(samples.shape[1:])
        for start in range(0, len(samples), _EXACT_ROWS):
            block = samples[start : start + _EXACT_ROWS].astype(np.float32)
            total += block.sum(0)
            square += np.square(block, out=block).sum(0)
        mean = total / len(samples)
        return Moments(len(samples), mean, np.maximum(square / len(samples) - mean * mean, 0.0))

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets together.

            d = m_b - m_a,  n = n_a + n_b
            m = m_a + d n_b / n
            v = (n_a v_a + n_b v_b + d^2 n_a n_b / n) / n

        Source: Chan, Golub and LeVeque 1979.
        """
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        spread = self.count * self.var + other.count * other.var
        return Moments(count, mean, (spread + delta**2 * (self.count * other.count / count)) / count)

    @property
    def std(self) -> F64:
        """Population standard deviation."""
        return np.sqrt(self.var)


def forward_filter(
    carry: F64,
    reward: npt.NDArray[np.floating],
    gamma: float,
    done: npt.NDArray[np.bool_] | None = None,
) -> tuple[F64, F64]:
    """Compute the running discounted sum of each lane: F[t] = gamma F[t-1] + reward[t], F[-1] = carry.

    Args:
        carry: float64 [B], the filter after the lanes' previous chunk (0 at first).
        reward: [T, B], rows in time order.
        gamma: discount per step.
        done: bool [T, B]; if given, the sum restarts at 0 after each end.

    Returns:
        Filtered values, float64 [T, B], and the new carry, float64 [B].

    Raises:
        ValueError: shapes do not match.

    Source: Burda et al. 2018, code (RewardForwardFilter); for the bonus it is never reset at an end.
    """
    if reward.ndim != 2 or reward.shape[1:] != carry.shape:
        raise ValueError(f"expected reward [T, {len(carry)}], got {list(reward.shape)}")
    filtered = np.empty(reward.shape)
    for t, row in enumerate(reward):
        carry = gamma * carry + row
        filtered[t] = carry
        if done is not None:
            carry = np.where(done[t], 0.0, carry)
    return filtered, carry.copy()
