"""The bottleneck of schedules whose bottleneck is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import Config, RolloutConfig
from common.protocol.messages import Phase
from learner.monitoring.bottleneck import CAUSES, MEASURED, Fleet, TimeWindow, bottleneck, time_shares
from learner.training.status import PHASES

ACTOR_PHASES = get_args(Phase)


def seconds(names: tuple[str, ...], **given: float) -> dict[str, float]:
    return dict.fromkeys(names, 0.0) | given


LARGE = Fleet(actors=4, room=64)


def strict_shares(
    collect: float, fetch: float, transport: float, train: float, save: float, fleet: Fleet
) -> dict[str, float]:
    """Shares of the strict mode, of a batch with one chunk for each of the actors that have room in it.

    The learner waits in the first three parts, those actors in the last three, and the others always.
    """
    learner = seconds(PHASES, wait=collect + fetch + transport, train=train, checkpoint=save)
    playing, idle = min(fleet), fleet.actors - min(fleet)
    whole = collect + fetch + transport + train + save
    actors = seconds(
        ACTOR_PHASES,
        env=playing * collect * 0.5,
        policy=playing * collect * 0.5,
        weights=playing * fetch,
        credit_wait=playing * (transport + train + save) + idle * whole,
    )
    return time_shares(learner, actors, fleet)


part = st.floats(0.01, 100.0)


@given(st.lists(part, min_size=5, max_size=5), st.integers(1, 64), st.integers(1, 64))
def test_in_the_strict_mode_the_longest_part_of_an_update_is_the_bottleneck(
    parts: list[float], actors: int, room: int
) -> None:
    """The shares are those of the parts and add up to 1, however many actors have no room in a batch."""
    fleet = Fleet(actors, room)
    collect, fetch, transport, train, save = parts
    shares = strict_shares(collect, fetch, transport, train, save, fleet)
    names = ("collection", "weights", "mutual_wait", "learner", "checkpoints")
    assert sum(shares.values()) == pytest.approx(1.0)
    for name, length in zip(names, parts, strict=True):
        assert shares[name] == pytest.approx(length / sum(parts), abs=1e-9)
    longest, second = sorted(parts, reverse=True)[:2]
    if longest > second * 1.001:
        cause = names[parts.index(longest)]
        found = bottleneck(3, 0, fleet, shares)
        assert found == ("actors" if cause == "collection" and actors < room else cause)


@given(st.floats(0.02, 0.98), st.integers(1, 64))
def test_in_the_overlapped_mode_the_side_that_never_waits_is_the_bottleneck(rest: float, actors: int) -> None:
    """Actors that always collect steps are the bottleneck of a learner that waits, and vice versa."""
    fleet = Fleet(actors, 2 * actors)
    learner = seconds(PHASES, wait=rest, train=1 - rest)
    times = seconds(ACTOR_PHASES, env=float(actors))
    assert bottleneck(3, 0, fleet, time_shares(learner, times, fleet)) == "actors"
    learner = seconds(PHASES, train=1.0)
    times = seconds(ACTOR_PHASES, env=actors * (1 - rest), credit_wait=actors * rest)
    assert bottleneck(3, 0, fleet, time_shares(learner, times, fleet)) == "learner"


@dataclass(frozen=True)
class Situation:
    """The last minute of a run, and its bottleneck.

    The times of the learner and of the average actor are percentages of the minute; the rest of the learner
    is training, that of the actor is waiting for credit.
    """

    name: str
    cause: str
    actors: int = 8
    room: int = 32
    version: int = 9
    warmup_chunks: int = 64
    learner: Mapping[str, float] = field(default_factory=dict)
    actor: Mapping[str, float] = field(default_factory=dict)
    measured: bool = True

    def shares(self) -> dict[str, float]:
        """Return the shares of the causes."""
        learner, actor = seconds(PHASES), seconds(ACTOR_PHASES)
        if self.measured:
            learner |= {"train": 100.0 - sum(self.learner.values()), **self.learner}
            actor |= {"credit_wait": 100.0 - sum(self.actor.values()), **self.actor}
        times = {phase: spent * self.actors for phase, spent in actor.items()}
        return time_shares(learner, times, Fleet(self.actors, self.room))

    def found(self) -> str:
        """Return the bottleneck that is found."""
        return bottleneck(self.version, self.warmup_chunks, Fleet(self.actors, self.room), self.shares())


SITUATIONS = (
    Situation("the learner has just started", "no_actors", actors=0, version=-1, measured=False),
    Situation("every actor has left", "no_actors", actors=0, learner={"wait": 100}),
    Situation("the first actors load", "loading", version=-1, warmup_chunks=0, learner={"wait": 100}),
    Situation(
        "no time is reported, and no chunk came", "loading", version=-1, warmup_chunks=0, measured=False
    ),
    Situation("random play", "warmup", version=-1, learner={"wait": 100}, actor={"env": 90}),
    Situation("a resumed run without a report", "starting", measured=False),
    Situation(
        "lanes are loaded again after the warm-up",
        "loading",
        version=0,
        learner={"wait": 95},
        actor={"load": 70, "env": 20},
    ),
    Situation("8 actors for 32 chunks", "actors", learner={"wait": 90}, actor={"env": 80, "policy": 8}),
    Situation(
        "one actor for one chunk", "collection", actors=1, room=1, learner={"wait": 90}, actor={"env": 88}
    ),
    Situation("32 actors for 32 chunks", "collection", actors=32, learner={"wait": 90}, actor={"env": 88}),
    Situation("64 actors for 32 chunks", "collection", actors=64, learner={"wait": 90}, actor={"env": 44}),
    Situation(
        "64 actors collect for two open batches of 32",
        "collection",
        actors=64,
        room=64,
        learner={"wait": 60},
        actor={"env": 99},
    ),
    Situation(
        "64 actors for 32 chunks that train long",
        "learner",
        actors=64,
        learner={"wait": 20},
        actor={"env": 9},
    ),
    Situation("the learner trains", "learner", learner={"wait": 20}, actor={"env": 18}),
    Situation("the learner assembles", "learner", learner={"wait": 20, "assemble": 70}, actor={"env": 18}),
    Situation("overlapped, the learner never waits", "learner", actor={"env": 60}),
    Situation(
        "32 actors on two cores", "cores", actors=32, learner={"wait": 90}, actor={"env": 6, "core_wait": 80}
    ),
    Situation(
        "five actors on four cores",
        "cores",
        actors=5,
        learner={"wait": 90},
        actor={"env": 72, "core_wait": 16},
    ),
    Situation(
        "cores that were busy for a moment", "actors", learner={"wait": 90}, actor={"env": 85, "core_wait": 3}
    ),
    Situation(
        "full cores while the learner trains long",
        "learner",
        learner={"wait": 20},
        actor={"env": 10, "core_wait": 8},
    ),
    Situation(
        "another program takes the learner's cores",
        "cores",
        learner={"wait": 20, "core_wait": 50},
        actor={"env": 18},
    ),
    Situation(
        "overlapped, both sides lack cores",
        "cores",
        learner={"core_wait": 40},
        actor={"env": 50, "core_wait": 50},
    ),
    Situation("slow downloads of weights", "weights", learner={"wait": 90}, actor={"env": 20, "weights": 65}),
    Situation(
        "64 actors for 32 chunks download slowly",
        "weights",
        actors=64,
        learner={"wait": 90},
        actor={"env": 10, "weights": 33},
    ),
    Situation("a slow network between the two", "mutual_wait", learner={"wait": 90}, actor={"env": 20}),
    Situation("a slow disk", "checkpoints", learner={"wait": 20, "checkpoint": 60}, actor={"env": 18}),
    Situation(
        "actors join a fleet that trains",
        "actors",
        actors=16,
        learner={"wait": 80},
        actor={"load": 20, "env": 55},
    ),
)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.name)
def test_each_situation_has_its_bottleneck(situation: Situation) -> None:
    """Shares are in [0, 1], and the bottleneck is the one that a change would help."""
    assert all(0.0 <= share <= 1.0 for share in situation.shares().values())
    assert situation.found() == situation.cause


def test_every_cause_is_in_the_table_and_every_measured_one_has_a_share() -> None:
    assert {situation.cause for situation in SITUATIONS} == set(CAUSES)
    assert set(SITUATIONS[-1].shares()) == set(MEASURED)


def test_one_slow_actor_among_many_shows_as_mutual_waiting() -> None:
    """Seven of eight actors and the learner wait for the last chunk most of the time."""
    learner = seconds(PHASES, wait=9.0, train=1.0)
    times = seconds(ACTOR_PHASES, env=7 * 1.0 + 9.0, credit_wait=7 * 9.0 + 1.0)
    fleet = Fleet(8, 8)
    assert bottleneck(3, 0, fleet, time_shares(learner, times, fleet)) == "mutual_wait"


@given(st.integers(1, 64), st.integers(1, 64), st.floats(0, 100), st.floats(0, 100))
def test_more_actors_are_the_remedy_only_with_room_and_with_free_cores(
    actors: int, room: int, core_wait: float, env: float
) -> None:
    shares = Situation(
        "", "", actors, room, learner={"wait": 90}, actor={"env": env / 2, "core_wait": core_wait / 2}
    ).shares()
    if bottleneck(3, 0, Fleet(actors, room), shares) == "actors":
        assert actors < room
        assert shares["cores"] < 0.1 * (shares["cores"] + shares["collection"])


def test_the_room_of_a_run_is_that_of_every_open_batch() -> None:
    config = Config(max_lag=2, rollout=RolloutConfig(lanes=4, batch_lanes=32))
    assert Fleet.of(config, 5) == Fleet(actors=5, room=24)


def test_a_window_forgets_times_older_than_about_a_minute() -> None:
    """After a change of schedule the shares are those of the new schedule, and the window stays small."""
    window = TimeWindow()
    learner, actors = seconds(PHASES), seconds(ACTOR_PHASES)
    for second in range(400):
        slow = second < 200
        learner = learner | {"wait": learner["wait"] + slow, "train": learner["train"] + (not slow)}
        actors = actors | {"env": actors["env"] + slow, "credit_wait": actors["credit_wait"] + (not slow)}
        growth = window.growth(learner, actors)
        shares = time_shares(*growth, LARGE)
        assert sum(growth[0].values()) <= 61
        if second == 199:
            assert shares["collection"] == pytest.approx(1.0)
    assert shares["learner"] == pytest.approx(1.0)
    assert shares["collection"] == 0.0


def test_a_window_covers_an_update_that_is_longer_than_a_minute() -> None:
    """A phase is counted at its end. During a long phase the bottleneck is that of the previous update."""
    window = TimeWindow()
    learner, actors = seconds(PHASES), seconds(ACTOR_PHASES)
    for _ in range(3):
        learner = learner | {"wait": learner["wait"] + 20, "train": learner["train"] + 200}
        actors = actors | {"env": actors["env"] + 20, "credit_wait": actors["credit_wait"] + 200}
        for _ in range(40):
            growth = window.growth(learner, actors)
    assert bottleneck(3, 0, LARGE, time_shares(*growth, LARGE)) == "learner"


def test_a_window_contains_a_report_of_the_actors_also_if_a_chunk_takes_minutes() -> None:
    """Actors report their times after a chunk; without any report the window is at most ten minutes long."""
    window = TimeWindow()
    learner, actors = seconds(PHASES), seconds(ACTOR_PHASES)
    for second in range(1200):
        learner = learner | {"wait": learner["wait"] + 1}
        if second % 200 == 199 and second < 600:
            actors = actors | {"env": actors["env"] + 200}
        growth = window.growth(learner, actors)
        if 400 < second < 1000:
            assert sum(growth[1].values()) >= 200
        assert sum(growth[0].values()) <= 601
    assert not sum(growth[1].values())
