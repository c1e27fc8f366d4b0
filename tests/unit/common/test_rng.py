"""Random streams: reproducible, and different for every purpose."""

from __future__ import annotations

import itertools

import numpy as np

from common.rng import RngKey, environment_seeds, network_seed


def first_draws(key: RngKey, lanes: int = 3) -> list[float]:
    """The first draw of each lane."""
    return [float(generator.random()) for generator in key.generators(lanes)]


def test_equal_keys_have_equal_streams() -> None:
    """The streams are a function of the four fields of the key."""
    assert first_draws(RngKey(1, 2, 3, False)) == first_draws(RngKey(1, 2, 3, False))


def test_different_keys_share_no_stream() -> None:
    """The stream depends on seed, slot, incarnation, lane and warm-up."""
    keys = [RngKey(*fields) for fields in itertools.product((0, 1), (0, 1, 5), (0, 1), (False, True))]
    draws = [draw for key in keys for draw in first_draws(key)]
    assert len(set(draws)) == len(draws)


def test_the_stream_of_a_lane_does_not_depend_on_the_number_of_lanes() -> None:
    assert first_draws(RngKey(1, 2, 3, False), 7)[:3] == first_draws(RngKey(1, 2, 3, False), 3)


def test_environment_seeds_fit_the_emulator() -> None:
    """The seeds are distinct and in [0, 2^31)."""
    seeds = environment_seeds(RngKey(1, 0, 0, False).generators(101))
    assert seeds.dtype == np.int64
    assert len(set(seeds.tolist())) == 101
    assert seeds.min() >= 0
    assert seeds.max() < 2**31


def test_network_seeds_differ_by_role_and_fit_torch() -> None:
    """The seeds are non-negative 63-bit numbers."""
    seeds = [network_seed(seed, role) for seed in (0, 1, 2**63 - 1) for role in range(4)]
    assert len(set(seeds)) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_networks_share_no_stream_with_any_lane() -> None:
    """The keys of networks are above every slot."""
    lanes = [
        np.random.SeedSequence([1, slot, 0, 0]).generate_state(1, np.uint64)[0] >> np.uint64(1)
        for slot in range(7)
    ]
    assert not {network_seed(1, role) for role in range(4)} & {int(lane) for lane in lanes}
