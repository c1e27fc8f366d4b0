"""Known bugs of the random streams, each put into the product at one place: the named test must fail.

A row rewrites one expression of one function, wherever that function is imported. The test that the row names
must then fail; without the bug it passes where it is defined.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from common import atari, envs
from common.config import EnvConfig
from common.rng import RngKey, environment_seeds
from tests.support.mutation import Mutant, check_noticed
from tests.unit.common import test_rng


@pytest.fixture(scope="module")
def breakout() -> Iterator[envs.VectorEnv]:
    """Two lanes; loading the game takes seconds."""
    env = envs.make(EnvConfig(id="breakout", sticky=0.25), 2)
    yield env
    env.close()


def test_lanes_repeat_actions_independently_of_each_other(breakout: envs.VectorEnv) -> None:
    # No ball is served, so only the paddle moves. It alternates between right and left, so that every image
    # equals the one two steps before, unless an action was repeated.
    breakout.reset(environment_seeds(RngKey(1, 0, 0, warmup=False).generators(2)))
    right, left = np.full(2, 2, np.int32), np.full(2, 3, np.int32)
    images = np.stack([breakout.step((right, left)[t % 2]).stack[:, -1] for t in range(400)])
    repeated = (images[2:] != images[:-2]).any((2, 3))
    assert (repeated.mean(0) > 0.2).all()
    assert (repeated.mean(0) < 0.8).all()
    assert abs(np.corrcoef(repeated.T)[0, 1]) < 0.2


MUTANTS = [
    Mutant(
        "lanes share their random stream",
        RngKey.generators,
        "[*key, lane, *phase]",
        "[*key, *phase]",
        test_lanes_repeat_actions_independently_of_each_other,
    ),
    Mutant(
        "lanes share their sticky actions",
        atari.AtariEnv.reset,
        "seed & _SEED_MASK",
        "5",
        test_lanes_repeat_actions_independently_of_each_other,
    ),
    Mutant(
        "actors share their random streams",
        RngKey.generators,
        "key = [self.seed, self.slot, self.incarnation]",
        "key = [self.seed, self.incarnation]",
        test_rng.test_different_keys_share_no_stream,
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.bug for mutant in MUTANTS])
def test_the_bug_is_noticed(mutant: Mutant, request: pytest.FixtureRequest) -> None:
    check_noticed(mutant, request)
