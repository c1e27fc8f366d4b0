"""The acting policy: a network under one bundle, and how it samples actions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from common import rnd
from common.chunk import Bundle, Spaces
from common.config import Config
from common.networks import make_policy
from common.precision import autocast

F32 = npt.NDArray[np.float32]


class Policy:
    """Acts with the newest loaded bundle. Owned by one thread.

    Images go in raw (the network scales them); vectors are whitened with the bundle's statistics.
    """

    def __init__(self, spaces: Spaces, config: Config) -> None:
        self._network = make_policy(spaces, config.network).requires_grad_(False).eval()
        self._spaces = spaces
        self._precision = config.precision
        self._mean = torch.zeros(spaces.observation)
        self._std = torch.ones(spaces.observation)

    def load(self, bundle: Bundle) -> None:
        """Take over the weights and statistics of `bundle`."""
        self._network.load_state_dict(bundle.part("policy"))
        self._mean, self._std = bundle.tensors["mean"], bundle.tensors["std"]

    def log_probs(self, stack: npt.NDArray[np.generic]) -> F32:
        """Log-probability of every action, [B, S, ...] -> float32 [B, actions]."""
        observation = torch.from_numpy(stack)
        if not self._spaces.is_image:
            observation = rnd.whiten(observation, self._mean, self._std, rnd.POLICY_CLIP)
        with torch.inference_mode(), autocast(self._precision):
            logits = self._network(observation).logits
        log_probs: F32 = torch.log_softmax(logits, 1).numpy()
        return log_probs

    def act(self, stack: npt.NDArray[np.generic], uniform: F32) -> tuple[npt.NDArray[np.int32], F32]:
        """Sample one action per lane by inverting the cumulative distribution.

        Args:
            stack: [B, S, ...], the newest observations of each lane.
            uniform: float32 [B] in [0, 1), one draw from each lane's own stream.

        Returns:
            Actions, int32 [B], and their log-probabilities, float32 [B].
        """
        log_probs = self.log_probs(stack)
        cumulative = np.cumsum(np.exp(log_probs), axis=1)
        # Scaled to the total, so that rounding can leave no draw beyond the last action.
        above = uniform[:, None] * cumulative[:, -1:] >= cumulative
        action = np.minimum(above.sum(1), log_probs.shape[1] - 1).astype(np.int32)
        return action, log_probs[np.arange(len(action)), action]
