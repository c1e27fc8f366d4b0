"""Random streams: reproducible, and shared by no two purposes."""

from __future__ import annotations

import itertools

import numpy as np

from common.rng import RngKey, environment_seeds, network_seed


def first_draws(place: RngKey, lanes: int = 3) -> list[float]:
    """One number per lane."""
    return [float(generator.random()) for generator in place.generators(lanes)]


def test_a_place_always_has_the_same_streams() -> None:
    """They follow from its four numbers."""
    assert first_draws(RngKey(1, 2, 3, False)) == first_draws(RngKey(1, 2, 3, False))


def test_no_two_places_share_a_stream() -> None:
    """Seed, slot, incarnation, lane and warm-up each make another stream."""
    places = [RngKey(*key) for key in itertools.product((0, 1), (0, 1, 5), (0, 1), (False, True))]
    draws = [draw for place in places for draw in first_draws(place)]
    assert len(set(draws)) == len(draws)


def test_a_lane_does_not_depend_on_how_many_there_are() -> None:
    """Lane b of an actor is the same whatever the number of lanes."""
    assert first_draws(RngKey(1, 2, 3, False), 7)[:3] == first_draws(RngKey(1, 2, 3, False), 3)


def test_environment_seeds_fit_the_emulator() -> None:
    """Distinct, and in [0, 2^31)."""
    seeds = environment_seeds(RngKey(1, 0, 0, False).generators(101))
    assert seeds.dtype == np.int64
    assert len(set(seeds.tolist())) == 101
    assert seeds.min() >= 0
    assert seeds.max() < 2**31


def test_network_seeds_differ_by_role_and_fit_torch() -> None:
    """Non-negative 63-bit numbers."""
    seeds = [network_seed(seed, role) for seed in (0, 1, 2**63 - 1) for role in range(4)]
    assert len(set(seeds)) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_networks_share_no_stream_with_any_lane() -> None:
    """Their keys lie beyond any slot."""
    lanes = [
        np.random.SeedSequence([1, slot, 0, 0]).generate_state(1, np.uint64)[0] >> np.uint64(1)
        for slot in range(7)
    ]
    assert not {network_seed(1, role) for role in range(4)} & {int(lane) for lane in lanes}
