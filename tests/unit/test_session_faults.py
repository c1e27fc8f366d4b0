"""Broken connections, stopped actors and killed learners: actors return, and every step is counted."""

from __future__ import annotations

from collections import Counter

import pytest
from structlog.testing import capture_logs

from common.config import Config, PPOConfig, RolloutConfig
from tests.support.session_world import TICK_SECONDS, World

CONFIG = Config(
    rollout=RolloutConfig(steps=64, lanes=8, batch_lanes=32), ppo=PPOConfig(minibatches=4), max_lag=1
)
BREAKS_SECONDS = {  # shorter and longer than a lease, and than the time to return after a restart
    "short": (1, 4, 12, 18),
    "long": (1, 4, 12, 18, 40, 90),
}


def disturb(world: World, breaks: tuple[int, ...], ticks: int) -> None:
    """Disconnect and stop actors and kill the learner at random, for a number of ticks."""
    rng, start_at = world.random, 0.0
    for _ in range(ticks):
        world.clock.now += TICK_SECONDS
        if world.learner is not None and rng.random() < 0.002:
            world.kill_learner()
            start_at = world.clock.now + rng.choice([1, 5, 20])
        elif world.learner is None and world.clock.now > start_at:
            world.start()
        for actor in world.actors:
            if world.clock.now > actor.fault_until:
                actor.connected, actor.stopped = True, False
                if rng.random() < 0.003:
                    actor.fault_until = world.clock.now + rng.choice(breaks)
                    actor.connected, actor.stopped = (True, False) if rng.random() < 0.5 else (False, True)
            if not actor.stopped:
                actor.run()
        world.run_learner()


def heal(world: World, ticks: int) -> None:
    """Connect and continue every process, and run for a number of ticks."""
    if world.learner is None:
        world.start()
    for actor in world.actors:
        actor.connected, actor.stopped, actor.fault_until = True, False, float("inf")
    for _ in range(ticks):
        world.clock.now += TICK_SECONDS
        for actor in world.actors:
            actor.run()
        world.run_learner()


@pytest.mark.parametrize("kind", BREAKS_SECONDS)
@pytest.mark.parametrize("seed", range(8))
def test_honest_actors_return_and_every_step_is_counted(
    kind: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three actors run twelve minutes with faults, then five without."""
    world = World(CONFIG, seed, monkeypatch)
    world.join(3, key="fleet")
    with capture_logs() as logged:
        disturb(world, BREAKS_SECONDS[kind], 3_000)
        before = world.version
        heal(world, 1_200)
        assert world.version > before + 10
        assert all(actor.session.joined for actor in world.actors)
        sums = world.finish()
    assert [row for row in logged if row["event"] in ("message_refused", "peer_banned")] == []
    assert sums == Counter(missing=0, in_flight=0, imbalance=0, problems=0)


def test_a_session_that_ended_after_the_checkpoint_is_counted_after_a_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its actor begins another session; then the learner restarts from a checkpoint before both."""
    world = World(CONFIG, 0, monkeypatch)
    world.join(1, key="fleet")
    (actor,) = world.actors
    heal(world, 20)
    world.save()
    heal(world, 200)
    ended = actor.session.sid
    actor.stopped = True
    for _ in range(600):  # longer than any lease
        world.clock.now += TICK_SECONDS
        world.run_learner()
    heal(world, 100)
    assert actor.session.sid != ended and actor.session.produced > 0
    counted = world.counted(ended)
    world.keep_checkpoints(1)
    world.kill_learner()
    world.start()
    assert world.counted(ended) < counted
    heal(world, 400)
    assert world.counted(ended) == counted
    assert world.finish() == Counter(missing=0, in_flight=0, imbalance=0, problems=0)


def rejoin_seconds(world: World, messages_per_second: int, limit_seconds: float) -> float:
    """Seconds until every actor is connected to a learner that reads `messages_per_second`."""
    start = world.clock.now
    while world.connected < len(world.actors) and world.clock.now < start + limit_seconds:
        world.clock.now += TICK_SECONDS
        for actor in world.actors:
            if actor.socket.received or world.random.random() < TICK_SECONDS:  # each about once a second
                actor.run()
        world.run_learner(int(messages_per_second * TICK_SECONDS))
    return world.clock.now - start


def restart_under_a_fleet(actors: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds until actors that share one key have rejoined a learner that restarts."""
    world = World(CONFIG, 1, monkeypatch)
    world.join(actors, key="fleet")
    with capture_logs() as logged:
        rejoin_seconds(world, 4_000, 600.0)
        sessions = {actor.session.sid for actor in world.actors}
        world.save()
        world.kill_learner()
        world.start()
        seconds = rejoin_seconds(world, 4_000, 600.0)
    assert [row for row in logged if row["event"] in ("message_refused", "peer_banned")] == []
    assert {actor.session.sid for actor in world.actors} == sessions
    return seconds


def test_a_fleet_that_shares_one_key_rejoins_a_restarted_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many Hellos at once are no violation and ban no actor."""
    assert restart_under_a_fleet(2_000, monkeypatch) < 60.0


@pytest.mark.slow
def test_ten_thousand_actors_rejoin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors whose Hello exceeds the quota of the key wait for the time that they are told."""
    assert restart_under_a_fleet(10_000, monkeypatch) < 60.0
