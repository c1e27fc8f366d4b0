"""Which side holds the run back, on schedules whose answer is known."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.protocol.messages import Phase
from learner.monitoring.bottleneck import SIDES, Recent, busy, held_back
from learner.training.status import PHASES

ACTOR_PHASES = get_args(Phase)


def seconds(names: tuple[str, ...], **given: float) -> dict[str, float]:
    return dict.fromkeys(names, 0.0) | given


def turns(play: float, fetch: float, way: float, train: float, save: float, actors: int) -> dict[str, float]:
    """Strict mode: play, fetch and transport while the learner waits; train and save while they do."""
    learner = seconds(PHASES, wait=play + fetch + way, train=train, checkpoint=save)
    fleet = seconds(
        ACTOR_PHASES,
        env=actors * play * 0.5,
        policy=actors * play * 0.5,
        weights=actors * fetch,
        credit_wait=actors * (way + train + save),
    )
    return busy(learner, fleet)


part = st.floats(0.01, 100.0)


@given(st.lists(part, min_size=5, max_size=5), st.integers(1, 64))
def test_in_the_strict_mode_the_longest_part_of_a_turn_holds_back(parts: list[float], actors: int) -> None:
    """The shares are those of the turn, and add up to it."""
    play, fetch, way, train, save = parts
    shares = turns(play, fetch, way, train, save, actors)
    names = ("actors", "weights", "wire", "learner", "disk")
    assert sum(shares.values()) == pytest.approx(1.0)
    for name, length in zip(names, parts, strict=True):
        assert shares[name] == pytest.approx(length / sum(parts), abs=1e-9)
    longest, second = sorted(parts, reverse=True)[:2]
    if longest > second * 1.001:
        assert held_back(3, actors, shares) == names[parts.index(longest)]


@given(st.floats(0.02, 0.98), st.integers(1, 64))
def test_in_the_overlapped_mode_it_is_whoever_never_rests(rest: float, actors: int) -> None:
    """Actors that play all the time hold back a learner that waits at all, and the other way round."""
    learner = seconds(PHASES, wait=rest, train=1 - rest)
    fleet = seconds(ACTOR_PHASES, env=float(actors))
    assert held_back(3, actors, busy(learner, fleet)) == "actors"
    learner = seconds(PHASES, train=1.0)
    fleet = seconds(ACTOR_PHASES, env=actors * (1 - rest), credit_wait=actors * rest)
    assert held_back(3, actors, busy(learner, fleet)) == "learner"


def test_one_slow_actor_among_many_shows_as_the_way_between() -> None:
    """Seven of eight have long played when the last chunk comes: nearly everybody waits."""
    learner = seconds(PHASES, wait=9.0, train=1.0)
    fleet = seconds(ACTOR_PHASES, env=7 * 1.0 + 9.0, credit_wait=7 * 9.0 + 1.0)
    assert held_back(3, 8, busy(learner, fleet)) == "wire"


def test_without_actors_or_bundles_or_figures_it_says_so() -> None:
    """Before anything can be measured the answer does not pretend."""
    nothing = busy(seconds(PHASES), seconds(ACTOR_PHASES))
    assert held_back(5, 0, turns(1, 0, 0, 2, 0, actors=1)) == "nobody"
    assert held_back(-1, 4, turns(1, 0, 0, 2, 0, actors=4)) == "warmup"
    assert held_back(0, 4, nothing) == "starting"
    assert {"starting", "nobody", "warmup", *nothing} == set(SIDES)


def test_recent_forgets_what_is_older_than_about_a_minute() -> None:
    """After a change of schedule the shares are those of the new one, and the window stays small."""
    recent = Recent()
    learner, actors = seconds(PHASES), seconds(ACTOR_PHASES)
    for second in range(400):
        slow = second < 200
        learner = learner | {"wait": learner["wait"] + slow, "train": learner["train"] + (not slow)}
        actors = actors | {"env": actors["env"] + slow, "credit_wait": actors["credit_wait"] + (not slow)}
        grown = recent.since(learner, actors)
        shares = busy(*grown)
        assert sum(grown[0].values()) <= 61
        if second == 199:
            assert shares["actors"] == pytest.approx(1.0)
    assert shares["learner"] == pytest.approx(1.0)
    assert shares["actors"] == 0.0


def test_recent_waits_for_an_update_that_is_longer_than_its_window() -> None:
    """Looked at during a phase that shows only at its end, the answer stays the one before."""
    recent = Recent()
    learner, actors = seconds(PHASES), seconds(ACTOR_PHASES)
    for _ in range(3):
        learner = learner | {"wait": learner["wait"] + 20, "train": learner["train"] + 200}
        actors = actors | {"env": actors["env"] + 20, "credit_wait": actors["credit_wait"] + 200}
        for _ in range(40):
            grown = recent.since(learner, actors)
    assert held_back(3, 1, busy(*grown)) == "learner"
