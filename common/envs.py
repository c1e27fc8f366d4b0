"""Vectorised environments behind one interface; the only importer of ale_py and gymnasium.

An environment resets in the step that ends an episode: the step returns the first observation of the new
episode, and for a truncated episode its last observation as `final`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import ale_py
import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from common.config import EnvConfig
from common.spaces import IMAGE_SHAPE, Spaces

FRAMES_PER_STEP = 4
_STACK = 4
Array = npt.NDArray[Any]


class EnvUnavailable(Exception):
    """The environment is unknown, its package is missing, or its spaces are not supported."""


class Transition(NamedTuple):
    """One step of all B lanes."""

    stack: Array  # [B, S, ...], the newest observations, after a reset if there was one
    reward: npt.NDArray[np.float32]  # [B], raw
    terminated: npt.NDArray[np.bool_]  # [B]
    truncated: npt.NDArray[np.bool_]  # [B]
    final: Array  # [K, ...], the last observation of each of K truncated episodes


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


def atari_rom(env_id: str) -> str | None:
    """The ROM name of an Atari game, in any of its spellings; None for any other environment."""
    match = re.fullmatch(r"ALE/(\w+)-v\d+|(\w+)NoFrameskip-v\d+|([\w-]+)", env_id)
    name = next((group for group in match.groups() if group), "") if match else ""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")
    return name if name in ale_py.roms.get_all_rom_ids() else None


def frames_per_step(env_id: str) -> int:
    """Emulator frames per step; 1 outside Atari."""
    return FRAMES_PER_STEP if atari_rom(env_id) else 1


def spaces(config: EnvConfig) -> Spaces:
    """The spaces of an environment; the call makes one lane to read them.

    Raises:
        EnvUnavailable: the environment cannot be made, or its spaces are not supported.
    """
    rom = atari_rom(config.id)
    if rom is None:
        return _gymnasium_spaces(config.id)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.loadROM(str(ale_py.roms.get_rom_path(rom)))
    return Spaces(IMAGE_SHAPE, _STACK, len(ale.getMinimalActionSet()))


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
    rom = atari_rom(config.id)
    return _Atari(rom, config, lanes) if rom else _Gymnasium(config.id, lanes)


def make_rendered(config: EnvConfig) -> tuple[VectorEnv, Callable[[], Array]]:
    """Make one lane with vector observations, and a function that renders it: uint8 [H, W, 3].

    Raises:
        EnvUnavailable: the environment cannot be made or rendered, or its spaces are not supported.
    """
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
        known = [*ale_py.roms.get_all_rom_ids(), *gymnasium.registry]
        close = difflib.get_close_matches(env_id, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "name an Atari game or a Gymnasium id"
        reason = str(error).splitlines()[0]
        raise EnvUnavailable(f"expected a known environment, got {env_id!r} ({reason}): {hint}") from None


class _Atari:
    """An Atari game in ALE's vector environment. Every option is set, as ALE's defaults are not RND's."""

    def __init__(self, rom: str, config: EnvConfig, lanes: int) -> None:
        self._env = ale_py.AtariVectorEnv(
            rom,
            lanes,
            num_threads=1,
            max_num_frames_per_episode=config.max_frames,
            repeat_action_probability=config.sticky,
            full_action_space=False,
            autoreset_mode=AutoresetMode.SAME_STEP,
            img_height=IMAGE_SHAPE[0],
            img_width=IMAGE_SHAPE[1],
            grayscale=True,
            stack_num=_STACK,
            frameskip=FRAMES_PER_STEP,
            maxpool=True,
            noop_max=0,
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=False,
        )
        actions = int(self._env.single_action_space.n)  # type: ignore[attr-defined]  # it is Discrete
        self.spaces = Spaces(IMAGE_SHAPE, _STACK, actions)

    def reset(self, seeds: npt.NDArray[np.int64]) -> Array:
        # ALE accepts 32-bit seeds; -1 means no seed.
        stack, _ = self._env.reset(seed=seeds & 0x7FFFFFFF)
        return np.asarray(stack)

    def step(self, action: npt.NDArray[Any]) -> Transition:
        if action.min() < 0 or action.max() >= self.spaces.actions:  # ALE would never return
            raise ValueError(f"expected actions in [0, {self.spaces.actions}), got {action.tolist()}")
        stack, reward, terminated, truncated, info = self._env.step(action)
        truncated = truncated & ~terminated
        final = info["final_obs"][truncated, -1] if truncated.any() else stack[:0, -1]
        return Transition(stack, reward.astype(np.float32), terminated, truncated, final)

    def close(self) -> None:
        self._env.close()


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
        return Transition(observation[:, None], reward.astype(np.float32), terminated, truncated, final)

    def render(self) -> Array:
        return np.asarray(self._env.render()[0])  # one image per lane

    def close(self) -> None:
        self._env.close()
