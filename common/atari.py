"""Atari games: B emulators that step together, with the preprocessing of RND; the only importer of ale_py."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import ale_py
import numpy as np
import numpy.typing as npt

from common.config import EnvConfig
from common.spaces import IMAGE_SHAPE, Spaces

_STACK = 4
_SEED_MASK = 0x7FFFFFFF  # the emulator accepts 31-bit seeds
_ROOM_ADDRESS = {"montezuma_revenge": 3}  # of the byte of RAM that has the room (RND code, atari_wrappers.py)
Array = npt.NDArray[Any]


class Transition(NamedTuple):
    """One step of all B lanes."""

    stack: Array  # [B, S, ...], the newest observations, after a reset if there was one
    reward: npt.NDArray[np.float32]  # [B], raw
    terminated: npt.NDArray[np.bool_]  # [B]
    truncated: npt.NDArray[np.bool_]  # [B]
    final: Array  # [K, ...], the last observation of each of K truncated episodes
    life_lost: npt.NDArray[np.bool_]  # [B], the game lost a life
    room: npt.NDArray[np.uint8]  # [B], 1 + the number of the room before any reset; 0 if the game tells none


def rom_of(env_id: str) -> str | None:
    """The ROM name of an Atari game, in any of its spellings; None for any other environment."""
    match = re.fullmatch(r"ALE/(\w+)-v\d+|(\w+)NoFrameskip-v\d+|([\w-]+)", env_id)
    name = next((group for group in match.groups() if group), "") if match else ""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")
    return name if name in known_roms() else None


def known_roms() -> list[str]:
    """The ROM names of all games."""
    return ale_py.roms.get_all_rom_ids()


def spaces(rom: str, config: EnvConfig) -> Spaces:
    """The spaces of a game; the call loads the game."""
    return Spaces(IMAGE_SHAPE, _STACK, len(_actions(_load(rom), config)))


def _load(rom: str, config: EnvConfig | None = None, seed: int = 0) -> ale_py.ALEInterface:
    """Make an emulator and load a game into it."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    if config is not None:
        ale.setFloat("repeat_action_probability", config.sticky)
    ale.setInt("random_seed", seed)
    ale.loadROM(str(ale_py.roms.get_rom_path(rom)))
    return ale


def _actions(ale: ale_py.ALEInterface, config: EnvConfig) -> list[ale_py.Action]:
    return list(ale.getLegalActionSet() if config.full_actions else ale.getMinimalActionSet())


class AtariEnv:
    """B lanes of an Atari game; see `common.envs.VectorEnv`.

    A step repeats its action for `frame_skip` frames. Its image is the pixelwise maximum of the last two grey
    screens, resized to 84 x 84 by the mean over the area of each pixel. A stack begins with zeros.

    Source: Burda et al. 2018, code, atari_wrappers.py. The images are those of ALE's vector environment up to
    rounding. That environment does not show the memory of its emulators.
    """

    def __init__(self, rom: str, config: EnvConfig, lanes: int) -> None:
        self._rom, self._config = rom, config
        self._ales = [_load(rom, config)]  # `reset` loads all lanes with their seeds
        self._actions = _actions(self._ales[0], config)
        self.spaces = Spaces(IMAGE_SHAPE, _STACK, len(self._actions))
        height, width = self._ales[0].getScreenDims()
        self._screens = np.zeros((2, lanes, height, width), np.uint8)
        self._stack = np.zeros((lanes, _STACK, *IMAGE_SHAPE), np.uint8)
        self._frames = np.zeros(lanes, np.int64)  # of the running episodes
        self._lives = np.zeros(lanes, np.int64)
        self._noops: list[np.random.Generator] = []

    def reset(self, seeds: npt.NDArray[np.int64]) -> Array:
        """See `VectorEnv`."""
        self._ales = [_load(self._rom, self._config, seed & _SEED_MASK) for seed in seeds.tolist()]
        self._noops = [np.random.default_rng(seed) for seed in seeds.tolist()]
        self._stack = np.zeros_like(self._stack)
        self._begin_episodes(np.arange(len(seeds)))
        return self._stack

    def step(self, action: npt.NDArray[Any]) -> Transition:
        """See `VectorEnv`.

        Raises:
            ValueError: an action is not in the action space.
        """
        if action.min() < 0 or action.max() >= self.spaces.actions:
            raise ValueError(f"expected actions in [0, {self.spaces.actions}), got {action.tolist()}")
        reward = np.array([self._play(lane, number) for lane, number in enumerate(action)], np.float32)
        images = self._images(slice(None))
        self._stack = np.concatenate([self._stack[:, 1:], images[:, None]], axis=1)
        terminated = np.array([ale.game_over() for ale in self._ales])
        truncated = (self._frames >= self._config.max_frames) & ~terminated
        lives = np.array([ale.lives() for ale in self._ales])
        life_lost, self._lives = lives < self._lives, lives
        room = self._room()
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            self._begin_episodes(ended)
        return Transition(self._stack, reward, terminated, truncated, images[truncated], life_lost, room)

    def _play(self, lane: int, number: int) -> int:
        """Repeat an action in one lane and keep its last two screens; returns the sum of the rewards."""
        ale, action, skip = self._ales[lane], self._actions[number], self._config.frame_skip
        reward = 0
        for frame in range(skip):
            reward += ale.act(action)
            self._frames[lane] += 1
            ended = ale.game_over() or self._frames[lane] >= self._config.max_frames
            if ended or frame >= skip - 2:
                ale.getScreenGrayscale(self._screens[frame % 2, lane])
            if ended:
                break
        return reward

    def _begin_episodes(self, lanes: npt.NDArray[np.int64]) -> None:
        """Begin a new episode in these lanes of the newest stack."""
        for lane in lanes.tolist():
            ale = self._ales[lane]
            ale.reset_game()
            if self._config.fire_on_reset and ale_py.Action.FIRE in self._actions:
                ale.act(ale_py.Action.FIRE)
            for _ in range(int(self._noops[lane].integers(self._config.noop_max + 1))):
                ale.act(ale_py.Action.NOOP)
            self._frames[lane], self._lives[lane] = 0, ale.lives()
            self._screens[:, lane] = 0
            ale.getScreenGrayscale(self._screens[0, lane])
        self._stack[lanes] = 0
        self._stack[lanes, -1] = self._images(lanes)

    def _images(self, lanes: slice | npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """The images of the kept screens, uint8 [B, 84, 84]."""
        return area_resize(self._screens[:, lanes].max(0))

    def _room(self) -> npt.NDArray[np.uint8]:
        address = _ROOM_ADDRESS.get(self._rom)
        if address is None:
            return np.zeros(len(self._ales), np.uint8)
        return np.array([1 + ale.getRAM()[address] for ale in self._ales], np.uint8)

    def render(self) -> Array:
        """The present screen of the first lane in its colours, uint8 [210, 160, 3]."""
        return np.asarray(self._ales[0].getScreenRGB())

    def close(self) -> None:
        """See `VectorEnv`."""
        self._ales.clear()


def area_resize(screens: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Resize grey screens [B, H, W] to [B, 84, 84]: each pixel is the mean over its area.

    The result is the same on every machine: the weights are integers, and no sum exceeds 2^24, so that sums
    in float32 are exact in any order.
    """
    height, width = screens.shape[1:]
    rows, columns = (_overlaps(*sizes) for sizes in zip(IMAGE_SHAPE, (height, width), strict=True))
    sums = rows @ screens.astype(np.float32) @ columns.T
    means: npt.NDArray[np.float32] = sums / (rows[0].sum() * columns[0].sum())
    return np.rint(means).astype(np.uint8)


def _overlaps(small: int, large: int) -> npt.NDArray[np.float32]:
    """The overlap of each of `small` equal intervals with each of `large`, in their greatest common unit."""
    edges, pixels = np.arange(small + 1) * large, np.arange(large) * small
    overlap = np.minimum(edges[1:, None], pixels + small) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(0) / math.gcd(small, large)).astype(np.float32)
