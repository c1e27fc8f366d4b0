"""The bottleneck of schedules whose bottleneck is known."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.protocol.messages import Phase
from learner.monitoring.bottleneck import CAUSES, TimeWindow, bottleneck, time_shares
from learner.training.status import PHASES

ACTOR_PHASES = get_args(Phase)


def seconds(names: tuple[str, ...], **given: float) -> dict[str, float]:
    return dict.fromkeys(names, 0.0) | given


def strict_shares(
    collect: float, fetch: float, transport: float, train: float, save: float, actors: int
) -> dict[str, float]:
    """Shares of the strict mode: the learner waits in the first three parts, actors in the last three."""
    learner = seconds(PHASES, wait=collect + fetch + transport, train=train, checkpoint=save)
    fleet = seconds(
        ACTOR_PHASES,
        env=actors * collect * 0.5,
        policy=actors * collect * 0.5,
        weights=actors * fetch,
        credit_wait=actors * (transport + train + save),
    )
    return time_shares(learner, fleet)


part = st.floats(0.01, 100.0)


@given(st.lists(part, min_size=5, max_size=5), st.integers(1, 64))
def test_in_the_strict_mode_the_longest_part_of_an_update_is_the_bottleneck(
    parts: list[float], actors: int
) -> None:
    """The shares are those of the parts and add up to 1."""
    collect, fetch, transport, train, save = parts
    shares = strict_shares(collect, fetch, transport, train, save, actors)
    names = ("actors", "weights", "mutual_wait", "learner", "checkpoints")
    assert sum(shares.values()) == pytest.approx(1.0)
    for name, length in zip(names, parts, strict=True):
        assert shares[name] == pytest.approx(length / sum(parts), abs=1e-9)
    longest, second = sorted(parts, reverse=True)[:2]
    if longest > second * 1.001:
        assert bottleneck(3, actors, shares) == names[parts.index(longest)]


@given(st.floats(0.02, 0.98), st.integers(1, 64))
def test_in_the_overlapped_mode_the_side_that_never_waits_is_the_bottleneck(rest: float, actors: int) -> None:
    """Actors that always collect steps are the bottleneck of a learner that waits, and vice versa."""
    learner = seconds(PHASES, wait=rest, train=1 - rest)
    fleet = seconds(ACTOR_PHASES, env=float(actors))
    assert bottleneck(3, actors, time_shares(learner, fleet)) == "actors"
    learner = seconds(PHASES, train=1.0)
    fleet = seconds(ACTOR_PHASES, env=actors * (1 - rest), credit_wait=actors * rest)
    assert bottleneck(3, actors, time_shares(learner, fleet)) == "learner"


def test_one_slow_actor_among_many_shows_as_mutual_waiting() -> None:
    """Seven of eight actors and the learner wait for the last chunk most of the time."""
    learner = seconds(PHASES, wait=9.0, train=1.0)
    fleet = seconds(ACTOR_PHASES, env=7 * 1.0 + 9.0, credit_wait=7 * 9.0 + 1.0)
    assert bottleneck(3, 8, time_shares(learner, fleet)) == "mutual_wait"


def test_states_without_a_measurement_have_causes_of_their_own() -> None:
    nothing = time_shares(seconds(PHASES), seconds(ACTOR_PHASES))
    assert bottleneck(5, 0, strict_shares(1, 0, 0, 2, 0, actors=1)) == "no_actors"
    assert bottleneck(-1, 4, strict_shares(1, 0, 0, 2, 0, actors=4)) == "warmup"
    assert bottleneck(0, 4, nothing) == "starting"
    assert {"starting", "no_actors", "warmup", *nothing} == set(CAUSES)


def test_a_window_forgets_times_older_than_about_a_minute() -> None:
    """After a change of schedule the shares are those of the new schedule, and the window stays small."""
    window = TimeWindow()
    learner, actors = seconds(PHASES), seconds(ACTOR_PHASES)
    for second in range(400):
        slow = second < 200
        learner = learner | {"wait": learner["wait"] + slow, "train": learner["train"] + (not slow)}
        actors = actors | {"env": actors["env"] + slow, "credit_wait": actors["credit_wait"] + (not slow)}
        growth = window.growth(learner, actors)
        shares = time_shares(*growth)
        assert sum(growth[0].values()) <= 61
        if second == 199:
            assert shares["actors"] == pytest.approx(1.0)
    assert shares["learner"] == pytest.approx(1.0)
    assert shares["actors"] == 0.0


def test_a_window_covers_an_update_that_is_longer_than_a_minute() -> None:
    """A phase is counted at its end. During a long phase the bottleneck is that of the previous update."""
    window = TimeWindow()
    learner, actors = seconds(PHASES), seconds(ACTOR_PHASES)
    for _ in range(3):
        learner = learner | {"wait": learner["wait"] + 20, "train": learner["train"] + 200}
        actors = actors | {"env": actors["env"] + 20, "credit_wait": actors["credit_wait"] + 200}
        for _ in range(40):
            growth = window.growth(learner, actors)
    assert bottleneck(3, 1, time_shares(*growth)) == "learner"
