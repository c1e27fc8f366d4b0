"""Environments behind one small seam; the only importer of ale_py and gymnasium.

Both kinds reset in the same step: the observation returned with an end is the new episode's, and
the one it replaced is handed over as `final`.
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
    """The task is unknown, its package is missing, or no policy here fits its spaces."""


class Transition(NamedTuple):
    """One step of all B lanes."""

    stack: Array  # [B, S, ...] the newest observations, after any reset
    reward: npt.NDArray[np.float32]  # [B], raw
    terminated: npt.NDArray[np.bool_]  # [B]
    truncated: npt.NDArray[np.bool_]  # [B]
    final: Array  # [K, ...] newest observation before the reset of each of K truncated lanes


class VectorEnv(Protocol):
    """B lanes that step together."""

    @property
    def spaces(self) -> Spaces:
        """What each lane shows and accepts."""

    def reset(self, seeds: npt.NDArray[np.int64]) -> Array:
        """Start every lane anew, one seed each; returns the stacks [B, S, ...]."""

    def step(self, action: npt.NDArray[Any]) -> Transition:
        """Advance every lane by one step; action: [B, *action], numbers beyond their bounds are clipped."""

    def close(self) -> None:
        """Free what it holds."""


def atari_rom(env_id: str) -> str | None:
    """The ROM name of an Atari game, however it was written; None for any other task."""
    match = re.fullmatch(r"ALE/(\w+)-v\d+|(\w+)NoFrameskip-v\d+|([\w-]+)", env_id)
    name = next((group for group in match.groups() if group), "") if match else ""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")
    return name if name in ale_py.roms.get_all_rom_ids() else None


def frames_per_step(env_id: str) -> int:
    """Emulator frames behind one step; 1 outside Atari."""
    return FRAMES_PER_STEP if atari_rom(env_id) else 1


def spaces(config: EnvConfig) -> Spaces:
    """What the task shows and accepts, without lanes; costs as much as making one.

    Raises:
        EnvUnavailable: see there.
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
    seen, does = env.observation_space, env.action_space
    env.close()
    if not (isinstance(seen, Box) and len(seen.shape) == 1):
        raise EnvUnavailable(f"expected {env_id} to show a vector, got {seen}: choose another environment")
    if isinstance(does, Discrete) and does.start == 0:
        return Spaces(seen.shape, 1, int(does.n))
    bounds = _bounds(does)
    if not bounds:
        raise EnvUnavailable(
            f"expected {env_id} to take discrete actions or a bounded vector, got {does}: "
            "choose another environment"
        )
    return Spaces(seen.shape, 1, len(bounds), bounds)


def _bounds(does: Space[Any]) -> tuple[tuple[float, float], ...]:
    """Least and greatest value of each number of an action; empty if it is not a bounded vector."""
    if not (isinstance(does, Box) and len(does.shape) == 1 and does.is_bounded()):
        return ()
    return tuple((float(low), float(high)) for low, high in zip(does.low, does.high, strict=True))


def make(config: EnvConfig, lanes: int) -> VectorEnv:
    """Build B lanes of the task.

    Raises:
        EnvUnavailable: see there.
    """
    rom = atari_rom(config.id)
    return _Atari(rom, config, lanes) if rom else _Gymnasium(config.id, lanes)


def make_filmed(config: EnvConfig) -> tuple[VectorEnv, Callable[[], Array]]:
    """One lane of a vector task, and a camera: what it looks like now, uint8 [H, W, 3].

    Raises:
        EnvUnavailable: see there; also if the task cannot be drawn.
    """
    env = _Gymnasium(config.id, 1, render_mode="rgb_array")
    try:
        env.reset(np.zeros(1, np.int64))
        if env.picture().ndim == 3:
            return env, env.picture
        reason = "no picture"
    except (gymnasium.error.Error, ImportError) as error:
        reason = str(error)
    env.close()
    raise EnvUnavailable(
        f"expected {config.id} to be drawn, got {reason}: install outrider[video] or leave the video out"
    )


class _SparseMountainCar(gymnasium.RewardWrapper[Any, Any]):
    """MountainCar-v0 that pays 1 at the flag and nothing elsewhere: a task of exploration alone."""

    def reward(self, reward: Any) -> float:
        position, _ = self.env.unwrapped.state  # type: ignore[attr-defined]  # the task's own
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
    """The emulator's own vector environment. Every option is set: its defaults are not RND's."""

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
        # The emulator takes 32-bit seeds and reads -1 as "none".
        stack, _ = self._env.reset(seed=seeds & 0x7FFFFFFF)
        return np.asarray(stack)

    def step(self, action: npt.NDArray[Any]) -> Transition:
        if action.min() < 0 or action.max() >= self.spaces.actions:  # the emulator would wait for ever
            raise ValueError(f"expected actions in [0, {self.spaces.actions}), got {action.tolist()}")
        stack, reward, terminated, truncated, info = self._env.step(action)
        truncated = truncated & ~terminated
        final = info["final_obs"][truncated, -1] if truncated.any() else stack[:0, -1]
        return Transition(stack, reward.astype(np.float32), terminated, truncated, final)

    def close(self) -> None:
        self._env.close()


class _Gymnasium:
    """Any Gymnasium task with vector observations; a stack of one."""

    def __init__(self, env_id: str, lanes: int, **options: str) -> None:
        self.spaces = _gymnasium_spaces(env_id, **options)
        self._env = SyncVectorEnv(
            [lambda: _gymnasium(env_id, **options)] * lanes, autoreset_mode=AutoresetMode.SAME_STEP
        )
        does = self._env.single_action_space
        self._box = (does.low, does.high) if isinstance(does, Box) else None

    def reset(self, seeds: npt.NDArray[np.int64]) -> Array:
        observation, _ = self._env.reset(seed=[int(seed) for seed in seeds])
        return np.asarray(observation, np.float32)[:, None]

    def step(self, action: npt.NDArray[Any]) -> Transition:
        if self._box is not None:
            action = np.clip(action, *self._box)
        observation, reward, terminated, truncated, info = self._env.step(action)
        truncated = truncated & ~terminated
        observation = observation.astype(np.float32)
        final = observation[:0]
        if truncated.any():
            final = np.stack([info["final_obs"][lane] for lane in np.flatnonzero(truncated)]).astype(
                np.float32
            )
        return Transition(observation[:, None], reward.astype(np.float32), terminated, truncated, final)

    def picture(self) -> Array:
        return np.asarray(self._env.render()[0])  # one per lane

    def close(self) -> None:
        self._env.close()
