"""Atari environments against the bare emulator; names and spaces of every environment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ale_py
import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, Space

from common import atari, envs
from common.config import EnvConfig
from common.spaces import Spaces

SEEDS = np.array([3, 5])
LANES = len(SEEDS)


class UnsupportedActions(gymnasium.Env[np.ndarray, object]):
    """An environment with vector observations and an unsupported action space."""

    observation_space = Box(-1.0, 1.0, (2,))

    def __init__(self, actions: Space[object]) -> None:
        self.action_space = actions


for name, unsupported in {
    "Unbounded": Box(-1.0, np.inf, (2,)),
    "Matrix": Box(-1.0, 1.0, (2, 2)),
    "Shifted": Discrete(3, start=1),
}.items():
    gymnasium.register(
        f"tests/{name}-v0", "tests.unit.common.test_envs:UnsupportedActions", kwargs={"actions": unsupported}
    )


@contextmanager
def lanes_of(env_id: str, **options: object) -> Iterator[envs.VectorEnv]:
    """An environment with two lanes; it is closed at the end."""
    env = envs.make(EnvConfig(id=env_id, **options), LANES)  # type: ignore[arg-type]
    try:
        yield env
    finally:
        env.close()


@pytest.fixture(scope="module")
def pong() -> Iterator[envs.VectorEnv]:
    """Shared: the emulator takes half a second per lane to load a game, and to reset it with a seed."""
    with lanes_of("pong") as env:
        yield env


def actions(steps: int, count: int, seed: int = 0) -> np.ndarray:
    """Uniform random actions, int32 [steps, B]."""
    return np.random.default_rng(seed).integers(0, count, (steps, LANES), np.int32)


def area_weights(size: int) -> np.ndarray:
    """[84, size]: how much of each pixel falls into each of 84 equal cells."""
    edges, pixels = np.linspace(0, size, 85), np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(overlap, 0, None) / (size / 84)


class Emulator:
    """A slow reference of one lane: the bare emulator, four frames per step, the maximum of the last two."""

    def __init__(self, rom: str) -> None:
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.loadROM(str(ale_py.roms.get_rom_path(rom)))
        self.ale.reset_game()
        self.legal = self.ale.getMinimalActionSet()

    def step(self, action: int) -> float:
        reward, self.screens = 0.0, [np.zeros((210, 160)), np.zeros((210, 160))]
        for _ in range(4):
            reward += self.ale.act(self.legal[action])
            self.screens = [self.screens[1], self.ale.getScreenGrayscale().astype(float)]
        return reward

    def image(self) -> np.ndarray:
        return area_weights(210) @ np.maximum(*self.screens) @ area_weights(160).T


def test_a_lane_equals_the_bare_emulator() -> None:
    """Rewards are sums of four frames and not clipped; no-ops, fire and an end at a lost life are absent."""
    emulator, lost_lives, largest_reward = Emulator("space_invaders"), 0, 0.0
    with lanes_of("space_invaders", sticky=0.0) as env:
        env.reset(SEEDS)
        lives = emulator.ale.lives()
        for step, action in enumerate(actions(600, 6)):
            result = env.step(action[[0, 0]])
            assert result.reward[0] == emulator.step(int(action[0]))
            largest_reward = max(largest_reward, float(result.reward[0]))
            assert result.terminated[0] == emulator.ale.game_over()
            if result.terminated[0]:
                break
            lost_lives += lives - emulator.ale.lives()
            lives = emulator.ale.lives()
            if step % 7 == 0:
                # Seeds affect sticky actions alone.
                np.testing.assert_array_equal(result.stack[0], result.stack[1])
                np.testing.assert_allclose(result.stack[0, -1], emulator.image(), atol=1.01)
    assert lost_lives >= 2
    assert largest_reward > 1.0  # not clipped
    assert emulator.ale.game_over()
    # Same-step reset: the newest image is the new episode's, without history; nothing was truncated.
    assert not result.stack[0, :-1].any()
    assert result.stack[0, -1].any()
    assert not result.truncated.any()
    assert result.final.shape == (0, 84, 84)


def test_equal_seeds_and_actions_give_equal_lanes(pong: envs.VectorEnv) -> None:
    """The index of the lane does not matter; a stack begins with zeros and moves by one image."""

    def play(seeds: np.ndarray) -> np.ndarray:
        before = pong.reset(seeds)
        assert before.shape == (LANES, 4, 84, 84)
        assert before.dtype == np.uint8
        assert not before[:, :3].any()
        assert before[:, 3].any()
        newest = []
        for action in actions(41, 6):
            after = pong.step(action[[0, 0]]).stack
            np.testing.assert_array_equal(after[:, :3], before[:, 1:])
            newest.append(after[:, -1])
            before = after
        return np.stack(newest)

    first, swapped = play(SEEDS), play(SEEDS[::-1])
    np.testing.assert_array_equal(first, swapped[:, ::-1])
    assert not np.array_equal(first[:, 0], first[:, 1])  # sticky actions differ by lane


def test_a_time_limit_truncates_and_returns_the_last_image(pong: envs.VectorEnv) -> None:
    """At max_frames a lane is truncated and has a new stack; `final` is its last image."""
    pong.reset(SEEDS)
    with lanes_of("pong", max_frames=44) as cut:
        cut.reset(SEEDS)
        for step, action in enumerate(actions(11, 6), 1):
            short, long = cut.step(action), pong.step(action)
            assert short.truncated.all() == (step == 11)
            assert not short.terminated.any()
    np.testing.assert_array_equal(short.final, long.stack[:, -1])
    assert (short.final != short.stack[:, -1]).mean() > 0.005
    assert not short.stack[:, :3].any()
    assert not long.truncated.any()


def test_a_step_does_not_overwrite_earlier_results(pong: envs.VectorEnv) -> None:
    """Later steps leave the arrays of earlier steps unchanged."""
    result = [pong.step(action) for action in actions(5, 6)]
    kept = [one.stack.copy() for one in result]
    for action in actions(5, 6, seed=1):
        pong.step(action)
    assert all(np.array_equal(one.stack, copy) for one, copy in zip(result, kept, strict=True))
    assert not np.array_equal(kept[0], kept[-1])


@pytest.mark.parametrize("bad", [-1, 6])
def test_an_illegal_action_never_reaches_the_emulator(bad: int, pong: envs.VectorEnv) -> None:
    """ALE would block for ever; the step raises, and the next one works."""
    with pytest.raises(ValueError, match=r"actions in \[0, 6\)"):
        pong.step(np.array([0, bad], np.int32))
    assert pong.step(np.array([0, 5], np.int32)).stack.any()


@pytest.mark.parametrize(
    ("env_id", "rom"),
    [
        ("gravitar", "gravitar"),
        ("ALE/Gravitar-v5", "gravitar"),
        ("GravitarNoFrameskip-v4", "gravitar"),
        ("MontezumaRevenge", "montezuma_revenge"),
        ("montezuma-revenge", "montezuma_revenge"),
        ("ALE/MontezumaRevenge-v5", "montezuma_revenge"),
        ("private_eye", "private_eye"),
        ("Blackjack-v1", None),
        ("CartPole-v1", None),
        ("ALE/NoSuchGame-v5", None),
        ("", None),
    ],
)
def test_atari_games_have_many_names(env_id: str, rom: str | None) -> None:
    """Names of this project, of Gymnasium and of older releases; Blackjack-v1 is not an Atari game."""
    assert atari.rom_of(env_id) == rom
    assert envs.frames_per_step(EnvConfig(id=env_id)) == (4 if rom else 1)


def test_spaces_are_known_without_lanes() -> None:
    """The learner reads them before its sockets open."""
    assert envs.spaces(EnvConfig(id="gravitar")) == Spaces((84, 84), 4, 18)
    assert envs.spaces(EnvConfig(id="ALE/Breakout-v5")) == Spaces((84, 84), 4, 4)
    assert envs.spaces(EnvConfig(id="CartPole-v1")) == Spaces((4,), 1, 2)
    assert envs.spaces(EnvConfig(id="Pendulum-v1")) == Spaces((3,), 1, 1, ((-2.0, 2.0),))
    assert envs.spaces(EnvConfig(id="outrider/MountainCarSparse-v0")) == Spaces((2,), 1, 3)


@pytest.mark.parametrize(
    ("env_id", "remedy"),
    [
        ("gravitaar", "gravitar"),
        ("CartPole-v9", "CartPole"),
        ("CartPoel-v1", "CartPole-v1"),
        ("zzzzzzzz", "name an Atari game"),
        ("Blackjack-v1", "vector"),
        ("FrozenLake-v1", "vector"),
        ("tests/Unbounded-v0", "discrete actions or a bounded vector"),
        ("tests/Matrix-v0", "discrete actions or a bounded vector"),
        ("tests/Shifted-v0", "discrete actions or a bounded vector"),
    ],
)
def test_an_unsupported_environment_is_refused_with_a_remedy(env_id: str, remedy: str) -> None:
    """The message suggests similar names for an unknown one, and names the supported spaces."""
    with pytest.raises(envs.EnvUnavailable, match=remedy) as caught:
        envs.spaces(EnvConfig(id=env_id))
    assert "\n" not in str(caught.value)
