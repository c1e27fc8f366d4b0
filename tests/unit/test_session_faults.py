"""Sessions over broken links and restarted learners: honest actors return, and every step is counted."""

from __future__ import annotations

from collections import Counter

import pytest
from structlog.testing import capture_logs

from common.config import Config, PPOConfig, RolloutConfig
from tests.support.session_world import TURN_SECONDS, World

CONFIG = Config(
    rollout=RolloutConfig(steps=64, lanes=8, batch_lanes=32), ppo=PPOConfig(minibatches=4), max_lag=1
)
BREAKS_SECONDS = {
    "short": (1, 4, 12, 18),
    "long": (1, 4, 12, 18, 40, 90),
}  # around the lease, and around a restart


def disturb(world: World, breaks: tuple[int, ...], turns: int) -> None:
    """Let links break, actors freeze and the learner crash, for some turns."""
    chance, back_at = world.random, 0.0
    for _ in range(turns):
        world.clock.now += TURN_SECONDS
        if world.learner is not None and chance.random() < 0.002:
            world.crash()
            back_at = world.clock.now + chance.choice([1, 5, 20])
        elif world.learner is None and world.clock.now > back_at:
            world.start()
        for actor in world.actors:
            if world.clock.now > actor.until:
                actor.linked, actor.frozen = True, False
                if chance.random() < 0.003:
                    actor.until = world.clock.now + chance.choice(breaks)
                    actor.linked, actor.frozen = (True, False) if chance.random() < 0.5 else (False, True)
            if not actor.frozen:
                actor.run()
        world.turn()


def heal(world: World, turns: int) -> None:
    """Repair every link and process, and let all of them continue."""
    if world.learner is None:
        world.start()
    for actor in world.actors:
        actor.linked, actor.frozen, actor.until = True, False, float("inf")
    for _ in range(turns):
        world.clock.now += TURN_SECONDS
        for actor in world.actors:
            actor.run()
        world.turn()


@pytest.mark.parametrize("kind", BREAKS_SECONDS)
@pytest.mark.parametrize("seed", range(8))
def test_honest_actors_return_and_every_step_is_counted(
    kind: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve minutes of faults for three actors, then five without."""
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
    """The session is given up, its actor begins another one, and the learner restarts from before both."""
    world = World(CONFIG, 0, monkeypatch)
    world.join(1, key="fleet")
    (actor,) = world.actors
    heal(world, 20)
    world.save()
    heal(world, 200)
    lost = actor.session.sid
    actor.frozen = True
    for _ in range(600):  # longer than any lease
        world.clock.now += TURN_SECONDS
        world.turn()
    heal(world, 100)
    assert actor.session.sid != lost and actor.session.produced > 0
    counted = world.counted(lost)
    world.keep_checkpoints(1)
    world.crash()
    world.start()
    assert world.counted(lost) < counted
    heal(world, 400)
    assert world.counted(lost) == counted
    assert world.finish() == Counter(missing=0, in_flight=0, imbalance=0, problems=0)


def rejoin_seconds(world: World, messages_per_second: int, limit_seconds: float) -> float:
    """Time until every actor is connected to a learner that reads so many messages a second."""
    start = world.clock.now
    while world.connected < len(world.actors) and world.clock.now < start + limit_seconds:
        world.clock.now += TURN_SECONDS
        for actor in world.actors:
            if actor.wire.inbox or world.random.random() < TURN_SECONDS:  # each about once a second
                actor.run()
        world.turn(int(messages_per_second * TURN_SECONDS))
    return world.clock.now - start


def restart_under_a_fleet(actors: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds until actors that share one key have rejoined a learner that restarts."""
    world = World(CONFIG, 1, monkeypatch)
    world.join(actors, key="fleet")
    with capture_logs() as logged:
        rejoin_seconds(world, 4_000, 600.0)
        sessions = {actor.session.sid for actor in world.actors}
        world.save()
        world.crash()
        world.start()
        seconds = rejoin_seconds(world, 4_000, 600.0)
    assert [row for row in logged if row["event"] in ("message_refused", "peer_banned")] == []
    assert {actor.session.sid for actor in world.actors} == sessions
    return seconds


def test_a_fleet_that_shares_one_key_rejoins_a_restarted_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Hello is an offence for being one of many, and nobody is banned."""
    assert restart_under_a_fleet(2_000, monkeypatch) < 60.0


@pytest.mark.slow
def test_ten_thousand_actors_rejoin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the quota of Hellos, actors wait as they are told; heartbeats are within the limits of each."""
    assert restart_under_a_fleet(10_000, monkeypatch) < 60.0
