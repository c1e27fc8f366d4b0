"""DeepSea rewards one of all plans, and `common.envs` runs it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import gymnasium
import numpy as np
import pytest

from common import envs
from common.config import EnvConfig
from common.spaces import Spaces
from tests.support.deep_sea import MOVE_COST, OPTIMUM, TREASURE, DeepSea

LANES = 3


def play(env: DeepSea, actions: Sequence[int]) -> tuple[list[np.ndarray], float]:
    """The observations of one episode, and its return."""
    observations, total = [env.reset()[0]], 0.0
    for step, action in enumerate(actions, 1):
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        total += reward
        assert (terminated, truncated) == (step == env.size, False)
    return observations, total


@pytest.mark.parametrize("size", [2, 5, 8])
def test_one_plan_has_a_positive_return_and_each_move_to_the_right_has_a_cost(size: int) -> None:
    returns = []
    for plan in product((0, 1), repeat=size):
        env = DeepSea(size, map_seed=7)
        cells, value = play(env, plan)
        places = [divmod(int(cell.argmax()), size) for cell in cells[:-1]]
        rights = sum(action == env.right[place] for action, place in zip(plan, places, strict=True))
        assert value == pytest.approx(TREASURE * (rights == size) - MOVE_COST * rights / size)
        returns.append(value)
    assert sum(value > 0 for value in returns) == 1  # a uniform policy succeeds once in 2^size episodes
    assert max(returns) == pytest.approx(OPTIMUM)


def test_each_observation_is_a_cell_of_the_next_row_in_an_adjacent_column() -> None:
    size, rng = 9, np.random.default_rng(0)
    for _ in range(20):
        cells, _ = play(DeepSea(size), rng.integers(2, size=size).tolist())
        grids = np.stack(cells).reshape(-1, size, size)
        assert grids.dtype == np.float32
        np.testing.assert_array_equal(grids.sum((1, 2)), [1.0] * size + [0.0])
        np.testing.assert_array_equal(np.diagonal(grids[:-1].sum(2)), 1.0)
        columns = grids[:-1].sum(1).argmax(1)
        assert columns[0] == 0
        moved = np.abs(np.diff(columns))
        assert ((moved == 1) | ((moved == 0) & (columns[:-1] == 0))).all()


def test_the_map_follows_from_its_seed_alone() -> None:
    one, same, other = DeepSea(20), DeepSea(20), DeepSea(20, map_seed=1)
    one.reset(seed=3)
    np.testing.assert_array_equal(one.right, same.right)
    share = (one.right != other.right).mean()
    assert abs(share - 0.5) < 3 * 0.5 / 20  # 3 standard deviations of the share of 400 fair coin flips


@pytest.mark.parametrize("size", [10, 20])
def test_a_constant_action_has_no_positive_return(size: int) -> None:
    env = gymnasium.make(f"tests.support.deep_sea:DeepSea-{size}-v0").unwrapped
    assert isinstance(env, DeepSea)
    for action in (0, 1):
        assert play(env, [action] * size)[1] <= 0.0


@pytest.mark.parametrize("size", [10, 20])
def test_every_lane_has_the_same_map(size: int) -> None:
    config = EnvConfig(id=f"tests.support.deep_sea:DeepSea-{size}-v0")
    assert envs.spaces(config) == Spaces((size * size,), 1, 2)
    right, total = DeepSea(size).right, np.zeros(LANES)
    env = envs.make(config, LANES)
    start = env.reset(np.arange(LANES))
    for step in range(size):
        moved = env.step(np.full(LANES, right[step, step], np.int32))
        total += moved.reward
        assert moved.terminated.all() == (step == size - 1)
        assert not moved.truncated.any()
    env.close()
    np.testing.assert_allclose(total, OPTIMUM, rtol=1e-6)
    np.testing.assert_array_equal(moved.stack, start)  # the next episode has begun
