"""The options of Atari games, and their lanes against ALE's vector environment."""

from __future__ import annotations

import ale_py
import numpy as np
from gymnasium.vector import AutoresetMode

from common import atari, envs
from common.config import EnvConfig
from tests.unit.common.test_envs import LANES, SEEDS, actions, area_weights, lanes_of


def test_lanes_equal_those_of_the_vector_environment_of_ale() -> None:
    """Rewards and ends are equal with sticky actions; images differ by rounding alone."""
    reference = ale_py.AtariVectorEnv(
        *("space_invaders", LANES),
        max_num_frames_per_episode=400,
        repeat_action_probability=0.25,
        autoreset_mode=AutoresetMode.SAME_STEP,
        noop_max=0,
        use_fire_reset=False,
        reward_clipping=False,
    )
    with lanes_of("space_invaders", max_frames=400) as env:
        expected, _ = reference.reset(seed=SEEDS)
        np.testing.assert_allclose(env.reset(SEEDS), expected.astype(float), atol=1.01)
        for action in actions(230, 6):
            stack, reward, terminated, truncated, _ = reference.step(action)
            result = env.step(action)
            np.testing.assert_allclose(result.stack, stack.astype(float), atol=1.01)
            np.testing.assert_array_equal(result.reward, reward)
            np.testing.assert_array_equal(result.terminated, terminated)
            np.testing.assert_array_equal(result.truncated, truncated & ~terminated)
    reference.close()


def test_a_resized_screen_is_the_mean_over_the_area_of_each_pixel() -> None:
    """Also for screens whose sides share few factors with 84."""
    rng = np.random.default_rng(0)
    for height, width in ((210, 160), (250, 160), (84, 84), (101, 97)):
        screens = rng.integers(0, 256, (3, height, width), np.uint8)
        expected = area_weights(height) @ screens.astype(float) @ area_weights(width).T
        np.testing.assert_allclose(atari.area_resize(screens), expected, atol=0.5001)


def test_a_lost_life_is_reported_in_its_step() -> None:
    """The end of the game is a lost life as well; the next game begins with all lives."""
    lost, ended = 0, 0
    with lanes_of("breakout", sticky=0.0, fire_on_reset=True) as env:
        env.reset(SEEDS)
        while not ended:
            result = env.step(np.ones(LANES, np.int32))  # FIRE serves the next ball
            lost += int(result.life_lost[0])
            ended = int(result.terminated[0])
        assert lost == 5
        assert not env.step(np.ones(LANES, np.int32)).life_lost.any()


def test_the_room_of_a_game_is_known_where_the_game_numbers_it() -> None:
    """The first room of Montezuma's Revenge is number 1."""
    for game, room in (("montezuma_revenge", 2), ("pong", 0)):
        with lanes_of(game) as env:
            env.reset(SEEDS)
            assert env.step(np.zeros(LANES, np.int32)).room.tolist() == [room, room]


def test_no_ops_delay_a_lane_by_a_random_number_of_frames() -> None:
    """The number depends on the seed of the lane; without no-ops all lanes begin alike."""
    seeds = np.arange(6)
    for noop_max, alike in ((0, True), (30, False)):
        env = envs.make(EnvConfig(id="space_invaders", sticky=0.0, noop_max=noop_max), len(seeds))
        stack = env.reset(seeds)
        np.testing.assert_array_equal(env.reset(seeds), stack)
        assert (stack == stack[0]).all() == alike
        env.close()


def test_frame_skip_divides_an_episode_into_steps() -> None:
    """A time limit counts frames."""
    for frame_skip, steps in ((1, 12), (4, 3), (5, 3)):
        with lanes_of("pong", frame_skip=frame_skip, max_frames=12) as env:
            env.reset(SEEDS)
            ends = [env.step(np.zeros(LANES, np.int32)).truncated.all() for _ in range(steps)]
            assert ends == [False] * (steps - 1) + [True]


def test_full_actions_are_the_eighteen_of_the_emulator() -> None:
    assert envs.spaces(EnvConfig(id="pong", full_actions=True)).actions == 18
    with lanes_of("pong", full_actions=True) as env:
        env.reset(SEEDS)
        assert env.spaces.actions == 18
        assert env.step(np.full(LANES, 17, np.int32)).stack.any()
