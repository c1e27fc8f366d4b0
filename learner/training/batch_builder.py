"""Builds the batch that the networks train on from the decoded chunks of one update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.config import Config
from common.protocol.chunk import Chunk
from common.spaces import Spaces
from learner.interface import DecodedChunk
from learner.training.batch import Batch, join, make_batch
from learner.training.normaliser import Normaliser

_TINY = np.finfo(np.float32).tiny  # a standard deviation of 0 must not divide by 0
Statistics = tuple[Tensor, Tensor]  # mean and std of the observations
ComputeBonus = Callable[[Tensor, Statistics], Tensor]  # observations [T, B, ...] -> bonus [T, B]


@dataclass(frozen=True, slots=True, eq=False)
class BuiltBatch:
    """A batch, and the statistics that become the trainer's if the update succeeds."""

    joined: Chunk  # E lanes; stale chunks carry recomputed bonuses
    batch: Batch
    normaliser: Normaliser  # includes this batch
    statistics: Statistics  # of `normaliser`, on the device
    stale_bonus_shift: float


class BatchBuilder:
    """Joins chunks, recomputes stale bonuses, scales both rewards and normalises observations."""

    def __init__(
        self, config: Config, spaces: Spaces, device: torch.device, compute_bonus: ComputeBonus
    ) -> None:
        self._config, self._spaces, self._device = config, spaces, device
        self._compute_bonus = compute_bonus

    def build(self, chunks: Sequence[DecodedChunk], version: int, normaliser: Normaliser) -> BuiltBatch:
        """Build the batch of `version` without a change of `normaliser`.

        Args:
            chunks: in batch order.
            version: of the policy before the update.
            normaliser: the statistics that the actors of `version` used.
        """
        joined = join([decoded.chunk for decoded in chunks])
        lag = np.array([version - decoded.version for decoded in chunks])
        acting = normaliser.observation_statistics()
        shift = self._recompute_stale_bonuses(joined, lag, acting)
        updated = normaliser.copy()
        intrinsic = updated.scale_bonus(joined.bonus, [decoded.slot for decoded in chunks])
        reward = self._extrinsic_reward(chunks, joined, updated)
        updated.observe(joined.observation)
        lane_lag = np.repeat(lag, self._config.rollout.lanes)
        batch = make_batch(joined, lane_lag, reward, intrinsic, self._spaces, acting, self._device)
        mean, std = updated.observation_statistics()
        return BuiltBatch(joined, batch, updated, (mean.to(self._device), std.to(self._device)), shift)

    def _recompute_stale_bonuses(
        self, joined: Chunk, lag: npt.NDArray[np.int64], acting: Statistics
    ) -> float:
        """Replace the bonuses of chunks with a lag by those of the present predictor.

        Returns:
            Mean absolute change, in standard deviations of the new bonuses; 0 if no chunk is stale.
        """
        lanes = np.flatnonzero(np.repeat(lag > 0, self._config.rollout.lanes))
        if not self._config.rnd.enabled or not len(lanes):
            return 0.0
        rows = torch.from_numpy(joined.observation[self._spaces.stack :, lanes]).to(self._device)
        mean, std = (x.to(self._device) for x in acting)
        bonus = self._compute_bonus(rows, (mean, std)).cpu().numpy()
        change = np.abs(joined.bonus[:, lanes] - bonus).mean() / max(bonus.std(), _TINY)
        joined.bonus[:, lanes] = bonus
        return float(change)

    def _extrinsic_reward(
        self, chunks: Sequence[DecodedChunk], joined: Chunk, normaliser: Normaliser
    ) -> npt.NDArray[np.float32]:
        """Return the rewards that the extrinsic stream learns from, float32 [T, E]."""
        match self._config.env.reward:
            case "sign":
                return np.sign(joined.reward)
            case "scaled":
                incarnations = [(decoded.slot, decoded.incarnation, decoded.fresh) for decoded in chunks]
                return normaliser.scale_reward(joined.reward, joined.done, incarnations)
            case _:
                return joined.reward
