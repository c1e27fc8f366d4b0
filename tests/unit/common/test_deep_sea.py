"""DeepSea is as hard as it says, and the project can play it."""

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


def dive(env: DeepSea, actions: Sequence[int]) -> tuple[list[np.ndarray], float]:
    """The observations of one whole episode, and what it paid."""
    seen, paid = [env.reset()[0]], 0.0
    for step, action in enumerate(actions, 1):
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append(observation)
        paid += reward
        assert (terminated, truncated) == (step == env.size, False)
    return seen, paid


@pytest.mark.parametrize("size", [2, 5, 8])
def test_one_of_all_plans_is_paid_and_all_pay_for_their_moves_to_the_right(size: int) -> None:
    paid = []
    for plan in product((0, 1), repeat=size):
        env = DeepSea(size, map_seed=7)
        cells, value = dive(env, plan)
        places = [divmod(int(cell.argmax()), size) for cell in cells[:-1]]
        rights = sum(action == env.right[place] for action, place in zip(plan, places, strict=True))
        assert value == pytest.approx(TREASURE * (rights == size) - MOVE_COST * rights / size)
        paid.append(value)
    assert sum(value > 0 for value in paid) == 1  # of 2^N: how often uniform play succeeds
    assert max(paid) == pytest.approx(OPTIMUM)


def test_every_step_shows_one_cell_of_the_next_row_beside_the_last_one() -> None:
    size, rng = 9, np.random.default_rng(0)
    for _ in range(20):
        cells, _ = dive(DeepSea(size), rng.integers(2, size=size).tolist())
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
    assert abs(share - 0.5) < 3 * 0.5 / 20  # 400 fair coins


@pytest.mark.parametrize("size", [10, 20])
def test_a_constant_action_is_no_plan(size: int) -> None:
    env = gymnasium.make(f"tests.support.deep_sea:DeepSea-{size}-v0").unwrapped
    assert isinstance(env, DeepSea)
    for action in (0, 1):
        assert dive(env, [action] * size)[1] <= 0.0


@pytest.mark.parametrize("size", [10, 20])
def test_the_project_plays_it_on_the_same_map_in_every_lane(size: int) -> None:
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
    np.testing.assert_array_equal(moved.stack, start)  # the next dive has begun
