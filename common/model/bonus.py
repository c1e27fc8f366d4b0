"""The bonus of every step of a chunk, in one go, with the predictor of the chunk's bundle."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from common.config import Config
from common.model import rnd
from common.model.bundle import Bundle
from common.model.networks import make_predictor, make_target
from common.model.precision import acting_precision, autocast
from common.spaces import Spaces


class BonusModel:
    """Rates observations by how badly the predictor knows them. Owned by one thread."""

    def __init__(self, spaces: Spaces, config: Config, target: dict[str, torch.Tensor]) -> None:
        self._target: nn.Module = make_target(spaces, config.network).eval()
        self._target.load_state_dict(target)
        self._predictor = make_predictor(spaces, config.network).requires_grad_(False).eval()
        self._precision = acting_precision(config.precision)
        self._mean = torch.zeros(spaces.observation)
        self._std = torch.ones(spaces.observation)

    def load(self, bundle: Bundle) -> None:
        """Take over predictor and statistics of `bundle`."""
        self._predictor.load_state_dict(bundle.part("predictor"))
        self._mean, self._std = bundle.tensors["mean"], bundle.tensors["std"]

    def compute_bonus(self, observation: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Prediction error of each observation, [T, B, ...] -> float32 [T, B]."""
        rows = torch.from_numpy(observation).flatten(0, 1)
        with torch.inference_mode(), autocast(self._precision):
            bonus = rnd.bonus(self._predictor, self._target, rows, self._mean, self._std)
        return bonus.reshape(observation.shape[:2]).numpy()
