"""The loop that steps the environment: T steps of B lanes, recorded as a chunk."""

from __future__ import annotations

import dataclasses
import faulthandler
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from common.config import RolloutConfig
from common.envs import VectorEnv
from common.model.policy import Policy
from common.phase_timer import PhaseTimer
from common.process.lifecycle import EXIT_CONFIGURATION, Fatal
from common.protocol.chunk import VALUE_LIMIT, Chunk, is_within_limit, layout
from common.rng import RngKey, environment_seeds
from common.spaces import Spaces

_STEP_LIMIT_SECONDS = 120  # a step that takes longer ends the process with a traceback


class Rollout:
    """Owns the lanes, their random streams and the buffers of the chunk that it collects.

    The arrays of a returned chunk are reused by the next one.
    """

    def __init__(self, env: VectorEnv, spaces: Spaces, config: RolloutConfig, phases: PhaseTimer) -> None:
        self._env, self._spaces, self._config, self._phases = env, spaces, config, phases
        arrays = layout(config, spaces, truncations=0)
        self._chunk = Chunk(**{name: np.zeros(shape, dtype) for name, (dtype, shape) in arrays.items()})
        self.key: RngKey | None = None  # of the random streams; None if the lanes must be reset
        self.fresh = False  # whether the next chunk begins with the reset observations
        self._generators: list[np.random.Generator] = []
        self._stack: npt.NDArray[np.generic] = np.zeros(0)

    def reset(self, key: RngKey) -> None:
        """Reset every lane, with the random streams of `key`."""
        self.key, self.fresh = key, True
        self._generators = key.generators(self._config.lanes)
        self._stack = self._env.reset(environment_seeds(self._generators))

    def collect(self, policy: Policy | None, after_step: Callable[[], bool]) -> Chunk | None:
        """Collect T steps of every lane.

        Args:
            policy: chooses the actions; None draws them uniformly (warm-up).
            after_step: called after every step of the lanes; False abandons the chunk.

        Returns:
            The chunk, with a bonus of zero; None if it was abandoned, and then the lanes must be reset.

        Raises:
            Fatal: the environment returned a number that is not finite or is beyond `VALUE_LIMIT`.
        """
        steps, stack, chunk = self._config.steps, self._spaces.stack, self._chunk
        chunk.observation[:stack] = np.moveaxis(self._stack, 1, 0)
        shape = (steps, *self._spaces.action)
        uniform = np.stack([g.random(shape, np.float32) for g in self._generators], axis=1)
        final_observations = []
        for t in range(steps):
            faulthandler.dump_traceback_later(_STEP_LIMIT_SECONDS, exit=True)
            with self._phases.measure("policy"):
                self._act(policy, t, uniform[t])
            with self._phases.measure("env"):
                transition = self._env.step(chunk.action[t])
            self._stack = transition.stack
            chunk.observation[stack + t] = transition.stack[:, -1]
            for name in ("reward", "terminated", "truncated", "life_lost", "room"):
                getattr(chunk, name)[t] = getattr(transition, name)
            final_observations.append(transition.final)
            with self._phases.measure("messages"):
                proceed = after_step()
            if not proceed:
                faulthandler.cancel_dump_traceback_later()
                self.key = None
                return None
        faulthandler.cancel_dump_traceback_later()
        self.fresh = False
        final = np.concatenate(final_observations)
        self._require_limit("rewards", chunk.reward)
        self._require_limit("observations", chunk.observation)
        self._require_limit("observations", final)
        return dataclasses.replace(chunk, final_observation=final, bonus=np.zeros_like(chunk.bonus))

    @staticmethod
    def _require_limit(name: str, array: npt.NDArray[np.generic]) -> None:
        """Raise `Fatal` if a number is beyond the limit: the learner would refuse this and later chunks."""
        if not is_within_limit(array):
            raise Fatal(
                EXIT_CONFIGURATION,
                f"expected finite {name} within {VALUE_LIMIT:g} from the environment, got NaN, infinity or a "
                "larger number: repair the environment, or scale them with a wrapper",
            )

    def _act(self, policy: Policy | None, t: int, uniform: npt.NDArray[np.float32]) -> None:
        """Write the actions of step t and their log-probabilities; `uniform`: float32 [B, *action]."""
        if policy is not None:
            self._chunk.action[t], self._chunk.log_prob[t] = policy.act(self._stack, uniform)
        elif self._spaces.is_continuous:
            low, high = np.array(self._spaces.bounds, np.float32).T
            self._chunk.action[t] = low + uniform * (high - low)
            self._chunk.log_prob[t] = -np.log(high - low).sum()
        else:
            self._chunk.action[t] = (uniform * self._spaces.actions).astype(np.int32)
            self._chunk.log_prob[t] = -np.log(self._spaces.actions)
