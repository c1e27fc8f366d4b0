"""The acting policy: a network with the weights of one bundle, from which actions are sampled."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from common.config import Config
from common.model import rnd
from common.model.bundle import Bundle
from common.model.distributions import distribution
from common.model.networks import PolicyOutput, make_policy
from common.model.precision import acting_precision, autocast
from common.spaces import Spaces

F32 = npt.NDArray[np.float32]


class Policy:
    """Chooses actions with the weights of the bundle that was loaded last. Owned by one thread.

    The network scales images itself; vectors are whitened with the bundle's statistics.
    """

    def __init__(self, spaces: Spaces, config: Config) -> None:
        self._network = make_policy(spaces, config.network).requires_grad_(False).eval()
        self._distribution = distribution(spaces)
        self._spaces = spaces
        self._precision = acting_precision(config.precision)
        self._mean = torch.zeros(spaces.observation)
        self._std = torch.ones(spaces.observation)

    def load(self, bundle: Bundle) -> None:
        """Load the weights and the statistics of `bundle`."""
        self._network.load_state_dict(bundle.part("policy"))
        self._mean, self._std = bundle.statistics(self._spaces.observation)

    def distribution_parameters(self, stack: npt.NDArray[np.generic]) -> torch.Tensor:
        """Parameters of the action distribution of each lane, [B, S, ...] -> float32 [B, P]."""
        observation = torch.from_numpy(stack)
        if not self._spaces.is_image:
            observation = rnd.whiten(observation, self._mean, self._std, rnd.POLICY_CLIP)
        with torch.inference_mode(), autocast(self._precision):
            output: PolicyOutput = self._network(observation)
        return output.distribution_parameters

    def act(self, stack: npt.NDArray[np.generic], uniform: F32) -> tuple[npt.NDArray[np.generic], F32]:
        """Sample one action per lane.

        Args:
            stack: [B, S, ...], the newest observations of each lane.
            uniform: float32 [B, *action] in [0, 1), drawn from each lane's own random stream.

        Returns:
            Actions, [B, *action] in the type of a chunk, and their log-probabilities, float32 [B].
        """
        parameters = self.distribution_parameters(stack)
        with torch.inference_mode():
            action = self._distribution.sample(parameters, torch.from_numpy(uniform))
            log_prob = self._distribution.log_prob(parameters, action)
        return action.numpy().astype(self._spaces.action_dtype), log_prob.numpy()

    def mode(self, stack: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """The most probable action of each lane, [B, *action]; see `act`."""
        action = self._distribution.mode(self.distribution_parameters(stack))
        return action.numpy().astype(self._spaces.action_dtype)
