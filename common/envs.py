"""Vectorised environments behind one interface; the only importer of gymnasium.

An environment resets in the step that ends an episode: the step returns the first observation of the new
episode, and for a truncated episode its last observation as `final`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from common import atari
from common.atari import Array, Transition
from common.config import EnvConfig
from common.spaces import Spaces


class EnvUnavailable(Exception):
    """The environment is unknown, its package is missing, or its spaces are not supported."""


class VectorEnv(Protocol):
    """B environments, called lanes, that step together."""

    @property
    def spaces(self) -> Spaces:
        """The observation space and the action space of a lane."""

    def reset(self, seeds: npt.NDArray[np.int64]) -> Array:
        """Reset every lane, with one seed each; returns the stacks [B, S, ...]."""

    def step(self, action: npt.NDArray[Any]) -> Transition:
        """Step every lane with its action, [B, *action]; continuous actions are clipped to their bounds."""

    def close(self) -> None:
        """Close every lane."""


def frames_per_step(config: EnvConfig) -> int:
    """Emulator frames per step; 1 outside Atari."""
    return config.frame_skip if atari.rom_of(config.id) else 1


def module_of(env_id: str) -> str | None:
    """The module that is imported to make an environment: "package.module" of "package.module:Task-v0"."""
    module, colon, _ = env_id.partition(":")
    return module if colon else None


def spaces(config: EnvConfig) -> Spaces:
    """The spaces of an environment; the call makes one lane to read them.

    Raises:
        EnvUnavailable: the environment cannot be made, or its spaces are not supported.
    """
    rom = atari.rom_of(config.id)
    return atari.spaces(rom, config) if rom else _gymnasium_spaces(config.id)


def _gymnasium_spaces(env_id: str, **options: str) -> Spaces:
    env = _gymnasium(env_id, **options)
    observation, action = env.observation_space, env.action_space
    env.close()
    if not (isinstance(observation, Box) and len(observation.shape) == 1):
        raise EnvUnavailable(
            f"expected {env_id} to have vector observations, got {observation}: choose another environment"
        )
    if isinstance(action, Discrete) and action.start == 0:
        return Spaces(observation.shape, 1, int(action.n))
    bounds = _bounds(action)
    if not bounds:
        raise EnvUnavailable(
            f"expected {env_id} to have discrete actions or a bounded vector of them, got {action}: "
            "choose another environment"
        )
    return Spaces(observation.shape, 1, len(bounds), bounds)


def _bounds(action: Space[Any]) -> tuple[tuple[float, float], ...]:
    """The minimum and the maximum of each component; empty if actions are not bounded vectors."""
    if not (isinstance(action, Box) and len(action.shape) == 1 and action.is_bounded()):
        return ()
    return tuple((float(low), float(high)) for low, high in zip(action.low, action.high, strict=True))


def make(config: EnvConfig, lanes: int) -> VectorEnv:
    """Make an environment with B lanes.

    Raises:
        EnvUnavailable: the environment cannot be made, or its spaces are not supported.
    """
    rom = atari.rom_of(config.id)
    return atari.AtariEnv(rom, config, lanes) if rom else _Gymnasium(config.id, lanes)


def make_rendered(config: EnvConfig) -> tuple[VectorEnv, Callable[[], Array]]:
    """Make one lane, and a function that renders it: uint8 [H, W, 3].

    Raises:
        EnvUnavailable: the environment cannot be made or rendered, or its spaces are not supported.
    """
    rom = atari.rom_of(config.id)
    if rom:
        game = atari.AtariEnv(rom, config, 1)
        return game, game.render
    env = _Gymnasium(config.id, 1, render_mode="rgb_array")
    try:
        env.reset(np.zeros(1, np.int64))
        if env.render().ndim == 3:
            return env, env.render
        reason = "no image"
    except (gymnasium.error.Error, ImportError) as error:
        reason = str(error)
    env.close()
    raise EnvUnavailable(
        f"expected {config.id} to be rendered, got {reason}: install outrider[video] or omit the video"
    )


class _SparseMountainCar(gymnasium.RewardWrapper[Any, Any]):
    """MountainCar-v0 with a reward of 1 at the flag and 0 elsewhere, which needs exploration."""

    def reward(self, reward: Any) -> float:
        position, _ = self.env.unwrapped.state  # type: ignore[attr-defined]  # defined by MountainCar
        return float(position >= self.env.unwrapped.goal_position)  # type: ignore[attr-defined]


gymnasium.register(
    "outrider/MountainCarSparse-v0",
    entry_point=lambda **options: _SparseMountainCar(gymnasium.make("MountainCar-v0", **options)),
)


def _gymnasium(env_id: str, **options: str) -> gymnasium.Env[Any, Any]:
    try:
        return gymnasium.make(env_id, **options)  # type: ignore[arg-type]  # options are render modes
    except gymnasium.error.DependencyNotInstalled as error:
        raise EnvUnavailable(
            f"expected the package behind {env_id}, got none: install it ({error})"
        ) from None
    except (gymnasium.error.Error, ImportError) as error:
        known = [*atari.known_roms(), *gymnasium.registry]
        close = difflib.get_close_matches(env_id, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "name an Atari game or a Gymnasium id"
        reason = str(error).splitlines()[0]
        raise EnvUnavailable(f"expected a known environment, got {env_id!r} ({reason}): {hint}") from None


class _Gymnasium:
    """A Gymnasium environment with vector observations and a stack of one."""

    def __init__(self, env_id: str, lanes: int, **options: str) -> None:
        self.spaces = _gymnasium_spaces(env_id, **options)
        self._env = SyncVectorEnv(
            [lambda: _gymnasium(env_id, **options)] * lanes, autoreset_mode=AutoresetMode.SAME_STEP
        )
        action = self._env.single_action_space
        self._bounds = (action.low, action.high) if isinstance(action, Box) else None

    def reset(self, seeds: npt.NDArray[np.int64]) -> Array:
        observation, _ = self._env.reset(seed=[int(seed) for seed in seeds])
        return np.asarray(observation, np.float32)[:, None]

    def step(self, action: npt.NDArray[Any]) -> Transition:
        if self._bounds is not None:
            action = np.clip(action, *self._bounds)
        observation, reward, terminated, truncated, info = self._env.step(action)
        truncated = truncated & ~terminated
        observation = observation.astype(np.float32)
        final = observation[:0]
        if truncated.any():
            final = np.stack([info["final_obs"][lane] for lane in np.flatnonzero(truncated)]).astype(
                np.float32
            )
        none = np.zeros(len(reward), np.uint8)  # neither lives nor rooms
        return Transition(
            *(observation[:, None], reward.astype(np.float32), terminated, truncated, final),
            life_lost=none.astype(np.bool_),
            room=none,
        )

    def render(self) -> Array:
        return np.asarray(self._env.render()[0])  # one image per lane

    def close(self) -> None:
        self._env.close()
