"""Loads the agent of a run's newest checkpoint: its policy and the networks of its bonus."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from common import envs
from common.config import Config
from common.model.bundle import Bundle
from common.model.policy import Policy
from common.model.precision import resolve_precision
from common.process.lifecycle import EXIT_CONFIGURATION, Fatal
from common.rng import draws
from common.spaces import Spaces
from learner.training import checkpoint
from learner.training.checkpoint import Checkpoint, CheckpointError
from learner.training.normaliser import Normaliser


@dataclass(frozen=True, slots=True, eq=False)
class Agent:
    """A policy restored from a checkpoint."""

    config: Config
    spaces: Spaces
    policy: Policy
    bundle: Bundle
    target: dict[str, torch.Tensor]  # state of the target network
    greedy: bool  # takes the most probable action instead of sampling one

    @property
    def env_steps(self) -> int:
        """The number of environment steps that it was trained on."""
        return max(0, self.bundle.version) * self.config.rollout.batch_steps

    @property
    def caption(self) -> str:
        """Policy version and number of training steps, as text."""
        return f"version {self.bundle.version:,}, {self.env_steps:,} steps of training"

    def act(
        self, stack: npt.NDArray[np.generic], generators: list[np.random.Generator]
    ) -> npt.NDArray[np.generic]:
        """Return an action for each lane, [B, S, ...] -> [B, *action], sampled with the lane's generator."""
        if self.greedy:
            return self.policy.mode(stack)
        return self.policy.act(stack, draws(generators, self.spaces))[0]


def load_agent(run_dir: Path, greedy: bool = False) -> Agent:
    """Load the agent of the newest intact checkpoint.

    Raises:
        Fatal: there is no checkpoint, it belongs to another release, or its task is not installed.
    """
    saved = _newest(run_dir)
    try:
        config = Config.from_json(saved.meta["config"])
        # Runs of earlier releases stored "auto".
        precision = resolve_precision(config.precision, torch.device("cpu"))
        config = replace(config, precision=precision)
        spaces = envs.spaces(config.env)
        normaliser = Normaliser(spaces, config)
        normaliser.load(saved.part("normaliser"))
        mean, std = normaliser.observation_statistics()
        bundle = Bundle(0, int(saved.meta["version"]), saved.part("model") | {"mean": mean, "std": std})
        policy = Policy(spaces, config)
        policy.load(bundle)
    except envs.EnvUnavailable as error:
        raise Fatal(EXIT_CONFIGURATION, str(error)) from None
    except (KeyError, ValueError, RuntimeError) as error:
        raise Fatal(
            EXIT_CONFIGURATION,
            f"expected a checkpoint of this release in {run_dir}, got another "
            f"({str(error).splitlines()[0]}): use the release that wrote it",
        ) from None
    return Agent(config, spaces, policy, bundle, saved.part("target"), greedy)


def _newest(run_dir: Path) -> Checkpoint:
    if not run_dir.is_dir():
        raise Fatal(
            EXIT_CONFIGURATION,
            f"expected a run directory, got {run_dir}: name one that python -m learner wrote",
        )
    try:
        saved = checkpoint.newest(run_dir / "checkpoints")
    except CheckpointError as error:
        raise Fatal(EXIT_CONFIGURATION, str(error)) from None
    if saved is None:
        raise Fatal(
            EXIT_CONFIGURATION,
            f"expected a checkpoint in {run_dir / 'checkpoints'}, got none: "
            "wait until the run has saved one, or name another run",
        )
    return saved
