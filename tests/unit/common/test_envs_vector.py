"""Vector environments against single Gymnasium environments, and the sparse MountainCar."""

from __future__ import annotations

import gymnasium
import numpy as np

from common import envs
from common.config import EnvConfig
from tests.unit.common.test_envs import LANES, SEEDS, actions, lanes_of


def test_vector_lanes_equal_single_environments() -> None:
    """Each lane of CartPole equals a separate environment that is reset at each end."""
    single = [gymnasium.make("CartPole-v1") for _ in SEEDS]
    now = [env.reset(seed=int(seed))[0] for env, seed in zip(single, SEEDS, strict=True)]
    ends = 0
    with lanes_of("CartPole-v1") as env:
        stack = env.reset(SEEDS)
        np.testing.assert_array_equal(stack, np.stack(now)[:, None])
        for action in actions(101, 2):
            result = env.step(action)
            for lane, one in enumerate(single):
                observation, reward, terminated, truncated, _ = one.step(int(action[lane]))
                ends += terminated
                assert (result.reward[lane], result.terminated[lane], result.truncated[lane]) == (
                    reward,
                    terminated,
                    truncated,
                )
                observation = one.reset()[0] if terminated else observation
                np.testing.assert_array_equal(result.stack[lane, 0], observation)
            assert result.stack.dtype == result.reward.dtype == np.float32
    for one in single:
        one.close()
    assert ends > 3


def test_a_time_limit_of_a_vector_lane_returns_the_last_observation() -> None:
    """MountainCar is truncated after 200 steps with any actions here."""
    single = gymnasium.make("MountainCar-v0")
    single.reset(seed=int(SEEDS[1]))
    with lanes_of("MountainCar-v0") as env:
        env.reset(SEEDS)
        for step, action in enumerate(actions(200, 3), 1):
            result = env.step(action)
            assert result.truncated.all() == (step == 200)
            last = single.step(int(action[1]))[0]
    single.close()
    assert result.final.shape == (LANES, 2)
    np.testing.assert_array_equal(result.final[1], last)
    assert not np.array_equal(result.stack[1, 0], last)


def test_a_bounded_vector_makes_actions_continuous() -> None:
    pendulum, cartpole = (envs.spaces(EnvConfig(id=name)) for name in ("Pendulum-v1", "CartPole-v1"))
    assert (pendulum.is_continuous, pendulum.action, pendulum.action_dtype) == (True, (1,), np.float32)
    assert (cartpole.is_continuous, cartpole.action, cartpole.action_dtype) == (False, (), np.int32)


def test_actions_beyond_their_bounds_are_clipped() -> None:
    """The reward is computed from the clipped torque. Actions within the bounds are unchanged."""

    def play(action: np.ndarray) -> list[np.ndarray]:
        with lanes_of("Pendulum-v1") as env:
            env.reset(SEEDS)
            sent = action.copy()
            result = [env.step(sent) for _ in range(7)]
            np.testing.assert_array_equal(sent, action)  # the chunk keeps the sampled action
        return [np.stack([one.stack for one in result]), np.stack([one.reward for one in result])]

    beyond, bound, within = (
        play(np.array(lanes, np.float32)[:, None]) for lanes in ([3.5, -1e6], [2.0, -2.0], [1.9, -1.9])
    )
    for one, other, third in zip(beyond, bound, within, strict=True):
        np.testing.assert_array_equal(one, other)
        assert not np.isclose(one, third).all()


SPARSE = "outrider/MountainCarSparse-v0"


def test_the_sparse_mountain_car_has_a_reward_of_1_at_the_flag_and_0_elsewhere() -> None:
    """A force in the direction of motion reaches the flag; the episode ends with the rewarded step."""
    rewards: list[list[float]] = [[], []]
    ends = np.zeros(LANES, np.int64)
    with lanes_of(SPARSE) as env:
        stack = env.reset(SEEDS)
        while not ends.all():
            velocity = stack[:, -1, 1]
            result = env.step(np.where(velocity < 0, 0, 2).astype(np.int32))
            assert not result.truncated.any()
            for lane in range(LANES):
                if not ends[lane]:
                    rewards[lane].append(float(result.reward[lane]))
                    assert result.terminated[lane] == (result.reward[lane] == 1.0)
            ends |= result.terminated
            stack = result.stack
    for episode in rewards:
        assert episode == [0.0] * (len(episode) - 1) + [1.0]
        assert 50 < len(episode) < 200


def test_the_sparse_mountain_car_differs_from_mountain_car_in_its_rewards_alone() -> None:
    with lanes_of(SPARSE) as env, lanes_of("MountainCar-v0") as plain:
        np.testing.assert_array_equal(env.reset(SEEDS), plain.reset(SEEDS))
        for step, action in enumerate(actions(200, 3), 1):
            result, known = env.step(action), plain.step(action)
            assert result.truncated.all() == result.truncated.any() == (step == 200)
            assert not result.reward.any()
            assert not result.terminated.any()
            np.testing.assert_array_equal(result.stack, known.stack)
            np.testing.assert_array_equal(known.reward, -1.0)
    np.testing.assert_array_equal(result.final, known.final)
