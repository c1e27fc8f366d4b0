"""The running statistics of a run: observations, and discounted returns of both reward streams."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from common.config import Config
from common.model.bundle import under
from common.spaces import Spaces
from learner.training.running_stats import Moments, forward_filter

_REWARD_CLIP = 10.0  # of a scaled extrinsic reward, in standard deviations of the return


class Normaliser:
    """Normalises observations and scales rewards. All statistics are float64.

    Warm-up chunks change the observation statistics. After the warm-up only chunks that are trained on
    change a statistic: every update works on a copy, which the trainer keeps if the update succeeds.
    """

    def __init__(self, spaces: Spaces, config: Config) -> None:
        self.observation = Moments.prior(spaces.observation)
        self.intrinsic_return = Moments.prior(())
        self.extrinsic_return = Moments.prior(())
        self._stack = spaces.stack
        self._lanes = config.rollout.lanes
        self._gamma_intrinsic = config.ppo.gamma_intrinsic
        self._gamma_extrinsic = config.ppo.gamma_extrinsic
        self._returns: dict[int, tuple[int, npt.NDArray[np.float64]]] = {}  # slot -> incarnation, [B]
        self._filters: dict[int, npt.NDArray[np.float64]] = {}  # slot -> [B]

    def copy(self) -> Normaliser:
        """Return an independent copy. It shares the arrays, which are never changed in place."""
        other = copy.copy(self)
        other._returns, other._filters = dict(self._returns), dict(self._filters)
        return other

    def observe(self, observation: npt.NDArray[np.generic]) -> None:
        """Merge the observations s_0 .. s_{T-1} of a batch, rows S-1 to S-1+T-1 of its chunks."""
        rows = observation[self._stack - 1 : -1]
        self.observation = self.observation.merge(Moments.of(rows.reshape(-1, *rows.shape[2:])))

    def merge_warmup(self, parts: Sequence[Moments]) -> None:
        """Merge warm-up moments, in the given order."""
        for part in parts:
            self.observation = self.observation.merge(part)

    def scale_bonus(self, bonus: npt.NDArray[np.float32], slots: Sequence[int]) -> npt.NDArray[np.float32]:
        """Turn the bonuses of a batch into intrinsic rewards.

        Each lane's bonus passes through the lane's forward filter. The moments of all filtered values are
        merged, then the raw bonus is divided by the standard deviation. No mean is subtracted.

        Args:
            bonus: float32 [T, E], in batch order.
            slots: of the batch's chunks, in batch order; a slot may occur several times.

        Returns:
            Intrinsic rewards, float32 [T, E].

        Source: Burda et al. 2018, section 2.4, and its code (ppo_agent.py).
        """
        filtered = np.empty(bonus.shape)
        for index, slot in enumerate(slots):
            columns = slice(index * self._lanes, (index + 1) * self._lanes)
            carry = self._filters.get(slot, np.zeros(self._lanes))
            filtered[:, columns], self._filters[slot] = forward_filter(
                carry, bonus[:, columns], self._gamma_intrinsic
            )
        self.intrinsic_return = self.intrinsic_return.merge(Moments.of(filtered.reshape(-1)))
        scaled: npt.NDArray[np.float32] = (bonus / self.intrinsic_return.std).astype(np.float32)
        return scaled

    def scale_reward(
        self,
        reward: npt.NDArray[np.float32],
        done: npt.NDArray[np.bool_],
        incarnations: Sequence[tuple[int, int, bool]],
    ) -> npt.NDArray[np.float32]:
        """Divide extrinsic rewards by the standard deviation of the discounted return; clip at 10.

        Args:
            reward: float32 [T, E], raw, in batch order.
            done: bool [T, E].
            incarnations: slot and incarnation of each chunk of the batch, and whether its lanes were
                reset before it; the return starts at 0 for a new incarnation and for reset lanes.

        Returns:
            float32 [T, E].

        Source: Engstrom et al. 2020, section 3 (reward scaling), arXiv:2005.12729.
        """
        filtered = np.empty(reward.shape)
        for index, (slot, incarnation, fresh) in enumerate(incarnations):
            columns = slice(index * self._lanes, (index + 1) * self._lanes)
            last, carry = self._returns.get(slot, (incarnation, np.zeros(self._lanes)))
            filtered[:, columns], carry = forward_filter(
                carry if last == incarnation and not fresh else np.zeros(self._lanes),
                reward[:, columns],
                self._gamma_extrinsic,
                done[:, columns],
            )
            self._returns[slot] = (incarnation, carry)
        self.extrinsic_return = self.extrinsic_return.merge(Moments.of(filtered.reshape(-1)))
        scaled = np.clip(reward / self.extrinsic_return.std, -_REWARD_CLIP, _REWARD_CLIP)
        return scaled.astype(np.float32)

    def observation_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation, float32, each with the shape of one observation."""
        mean, std = self.observation.mean.astype(np.float32), self.observation.std.astype(np.float32)
        return torch.from_numpy(mean), torch.from_numpy(std)

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors of a checkpoint, without running returns: a resumed run resets every lane."""
        moments = {
            "observation": self.observation,
            "intrinsic": self.intrinsic_return,
            "extrinsic": self.extrinsic_return,
        }
        tensors = {f"filter.{slot}": torch.from_numpy(carry) for slot, carry in self._filters.items()}
        for name, value in moments.items():
            tensors[f"{name}.count"] = torch.tensor(value.count, dtype=torch.float64)
            tensors[f"{name}.mean"] = torch.as_tensor(value.mean)
            tensors[f"{name}.var"] = torch.as_tensor(value.var)
        return tensors

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore `state`."""

        def moments(name: str) -> Moments:
            return Moments(
                float(state[f"{name}.count"]),
                state[f"{name}.mean"].numpy().copy(),
                state[f"{name}.var"].numpy().copy(),
            )

        self.observation = moments("observation")
        self.intrinsic_return, self.extrinsic_return = moments("intrinsic"), moments("extrinsic")
        self._filters = {int(slot): carry.numpy().copy() for slot, carry in under("filter", state).items()}
