"""Computes the exploration bonus of whole chunks, for actors, the learner and videos alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from common.config import Config, Precision
from common.model import rnd
from common.model.bundle import Bundle
from common.model.networks import make_predictor, make_target
from common.model.precision import acting_precision, autocast
from common.spaces import Spaces


def compute_bonus(
    predictor: nn.Module,
    target: nn.Module,
    observation: Tensor,
    statistics: tuple[Tensor, Tensor],
    precision: Precision,
) -> Tensor:
    """The bonus of each observation, [T, B, ...] -> float32 [T, B]; see `rnd.bonus`.

    Args:
        predictor, target: on the device of the observations.
        observation: [T, B, ...].
        statistics: mean and std of the observations, each the shape of one observation.
        precision: of the matrix products.
    """
    with autocast(precision, observation.device.type):
        bonus = rnd.bonus(predictor, target, observation.flatten(0, 1), *statistics)
    return bonus.view(observation.shape[:2])


class BonusModel:
    """Computes bonuses with the predictor and the statistics of one bundle. Owned by one thread."""

    def __init__(self, spaces: Spaces, config: Config, target: dict[str, Tensor]) -> None:
        self._target: nn.Module = make_target(spaces, config.network).eval()
        self._target.load_state_dict(target)
        self._predictor = make_predictor(spaces, config.network).requires_grad_(False).eval()
        self._precision = acting_precision(config.precision)
        self._mean = torch.zeros(spaces.observation)
        self._std = torch.ones(spaces.observation)

    def load(self, bundle: Bundle) -> None:
        """Load the predictor and the statistics of `bundle`."""
        self._predictor.load_state_dict(bundle.part("predictor"))
        self._mean, self._std = bundle.statistics(tuple(self._mean.shape))

    @torch.inference_mode()
    def compute_bonus(self, observation: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """The bonus of each observation, [T, B, ...] -> float32 [T, B]."""
        rows, statistics = torch.from_numpy(observation), (self._mean, self._std)
        return compute_bonus(self._predictor, self._target, rows, statistics, self._precision).numpy()
