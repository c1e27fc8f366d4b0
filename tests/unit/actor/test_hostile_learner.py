"""What an actor accepts from a hostile learner: waits, memory, messages and modules have bounds."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import pytest

import actor.service
from actor import limits
from common.config import Config, RolloutConfig
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_TEMPORARY, Fatal
from common.protocol import codec
from common.protocol import messages as m
from common.spaces import Spaces
from learner.presets import PRESETS
from tests.support.simulated_learner import WELCOME, SimulatedLearner

HUGE = (1 << 62) - 1
IMAGES, VECTORS = Spaces((84, 84), 4, 18), Spaces((4,), 1, 2)
NOTHING = {"received": 0, "settled": 0, "credit": 0, "version": 0}
PACKED = codec.Packed(0, 0, bytes(1_000))


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> SimulatedLearner:
    return SimulatedLearner.on(monkeypatch)


@pytest.mark.parametrize(
    "env_id", ["os:X-v0", ":X-v0", "a:b:c", "allowed.more:X-v0", "allowe:X-v0", "Allowed:X-v0"]
)
def test_an_environment_of_a_module_that_is_not_allowed_is_refused(env_id: str) -> None:
    with pytest.raises(Fatal, match=f"got '{env_id}': .* --allow-module {env_id.split(':')[0]}") as raised:
        limits.require_allowed_module(env_id, {"allowed", "other"})
    assert raised.value.code == EXIT_CONFIGURATION


@pytest.mark.parametrize("env_id", ["pong", "ALE/Pong-v5", "CartPole-v1", "allowed:X-v0"])
def test_an_environment_without_a_module_or_with_an_allowed_one_is_accepted(env_id: str) -> None:
    limits.require_allowed_module(env_id, {"allowed", "other"})


def test_a_learner_cannot_make_an_actor_silent_or_wait_for_it_without_end(learner: SimulatedLearner) -> None:
    """The actor sends a heartbeat within a minute, and reconnects to a silent learner after ten."""
    learner.welcome(heartbeat_ms=HUGE, lease_ms=HUGE)
    learner.wait(1.0)  # the first heartbeat
    learner.received.clear()
    learner.wait(60.0)
    assert [type(message) for message in learner.received] == [m.Heartbeat]
    learner.wait(538.0)
    assert learner.session.counters.reconnects == 0
    learner.wait(2.0)
    assert learner.session.counters.reconnects == 1


@pytest.mark.parametrize("milliseconds", [0, -1])
def test_a_learner_cannot_make_an_actor_reconnect_or_send_at_every_poll(
    milliseconds: int, learner: SimulatedLearner
) -> None:
    learner.welcome(heartbeat_ms=milliseconds, lease_ms=milliseconds)
    for _ in range(20):  # the learner answers, so that the actor stays
        learner.wait(0.5)
        learner.tell(m.Ack(generation=0, **NOTHING))
    for _ in range(900):
        learner.clock.now += 0.001
        learner.session.poll()
    assert learner.session.counters.reconnects == 0
    assert 0 < len(learner.received) <= 10


def test_a_full_learner_cannot_make_an_actor_wait_longer_than_a_quarter_of_an_hour(
    learner: SimulatedLearner,
) -> None:
    learner.tell(m.Reject(code="full", text="expected fewer actors", retry_after_ms=HUGE))
    learner.wait(599.5)
    assert learner.received == []
    learner.wait(301.0)
    assert any(isinstance(message, m.Hello) for message in learner.received)


class Endless(SimulatedLearner):
    """A learner whose next message always waits to be read."""

    reads = 0

    def receive(self, timeout_seconds: float = 0.0, also: int | None = None) -> list[bytes] | None:
        self.reads += 1
        assert self.reads < 10_000, "expected a poll that ends"
        return codec.encode(m.HelloRequired(generation=0))


def test_a_poll_ends_although_messages_arrive_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two polls the actor notices signals. One Hello answers all messages of a poll."""
    learner = Endless(SimulatedLearner.on(monkeypatch).clock)
    learner.reads = 0
    learner.received.clear()
    learner.session.poll()
    assert learner.reads == limits.POLL_MESSAGES
    assert [type(message) for message in learner.received] == [m.Hello]


def seal_chunks(learner: SimulatedLearner, count: int) -> None:
    for _ in range(count):
        learner.session.count_steps(1)
        learner.session.send_chunk(0, 0, True, PACKED)


def skip_chunks(learner: SimulatedLearner, count: int) -> None:
    for _ in range(count):
        learner.session.count_steps(1)
        learner.session.skip("old_generation")


@pytest.mark.parametrize("seal", [seal_chunks, skip_chunks])
def test_an_actor_ends_before_unsettled_messages_fill_its_memory(
    seal: Callable[[SimulatedLearner, int], None], learner: SimulatedLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learner grants credit and settles nothing."""
    monkeypatch.setattr(limits, "UNSETTLED_BYTES", 100_000)
    learner.welcome(credit=HUGE)
    with pytest.raises(Fatal, match="settles chunks") as raised:
        seal(learner, 1_000)
    assert raised.value.code == EXIT_TEMPORARY
    assert learner.session.buffer.size_bytes < 110_000


def test_chunks_that_are_settled_do_not_count(
    learner: SimulatedLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UNSETTLED_BYTES", 100_000)
    learner.welcome(credit=HUGE)
    for settled in range(10, 1_010, 10):
        seal_chunks(learner, 10)
        learner.tell(m.Ack(generation=0, received=settled, settled=settled, credit=HUGE, version=0))
    assert learner.session.buffer.size_bytes == 0


def arbitrary_message(rng: random.Random, sid: bytes) -> m.Message:
    """A well-formed message of a learner with arbitrary contents."""

    def number() -> int:
        return rng.choice([-1, 0, 1, 2, 5, rng.randrange(100), 1 << 40, HUGE])

    match rng.randrange(8):
        case 0 | 1:
            return dataclasses.replace(
                WELCOME,
                sid=rng.choice([sid, sid, bytes(16)]),
                generation=number(),
                received=number(),
                settled=number(),
                credit=number(),
                version=number(),
                heartbeat_ms=number(),
                lease_ms=number(),
            )
        case 2:
            return m.Reject(
                code=rng.choice(["lost", "full"]),
                text="text",
                sid=rng.choice([sid, bytes(16)]),
                produced=number(),
                retry_after_ms=number(),
            )
        case 3:
            return m.Ack(
                generation=number(), received=number(), settled=number(), credit=number(), version=number()
            )
        case 4:
            return m.Resend(offset=number())
        case 5:
            return m.HelloRequired(generation=number())
        case 6:
            others: list[m.Message] = [m.ByeAck(), m.Drain(finished=False), m.WeightsUnchanged(name="target")]
            return rng.choice(others)
        case _:  # a message that a learner never sends
            return m.Heartbeat(sid=sid, generation=number(), produced=number(), stats={})


@pytest.mark.parametrize("seed", range(4))
def test_arbitrary_messages_do_not_end_a_session_or_change_what_it_sends(
    seed: int, learner: SimulatedLearner
) -> None:
    """The steps that a session has sent or skipped never exceed those that the actor has made in it."""
    rng, session = random.Random(seed), learner.session
    for _ in range(2_000):
        learner.tell(arbitrary_message(rng, session.sid))
        learner.clock.now += rng.choice([0.0, 0.01, 5.0])
        if session.joined and rng.random() < 0.3:
            session.count_steps(3)
            seal = rng.choice(
                [lambda: session.send_chunk(0, 0, True, PACKED), lambda: session.skip("oversize")]
            )
            seal()
        assert {type(message) for message in learner.received} <= {
            m.Hello,
            m.Heartbeat,
            m.ChunkMessage,
            m.Skip,
        }
        assert 0 <= session.buffer.base <= session.buffer.encoded_steps <= session.produced


def rollout(steps: int, lanes: int) -> RolloutConfig:
    return RolloutConfig(steps=steps, lanes=lanes, batch_lanes=lanes)


@pytest.mark.parametrize(
    ("steps", "lanes", "spaces"),
    [(4096, 1024, IMAGES), (256, 149, IMAGES), (4, 1, Spaces((1 << 24,), 1, 2))],
)
def test_chunks_of_more_than_256_mib_are_refused(steps: int, lanes: int, spaces: Spaces) -> None:
    config = Config(rollout=rollout(steps, lanes))
    with pytest.raises(Fatal, match=r"expected chunks of at most 256 MiB, got \d+ MiB: lower") as raised:
        limits.require_chunk_size(config, spaces)
    assert raised.value.code == EXIT_CONFIGURATION


def test_the_chunks_of_every_preset_are_small_enough() -> None:
    for config in PRESETS.values():
        limits.require_chunk_size(config, IMAGES)
    limits.require_chunk_size(Config(rollout=rollout(256, 145)), IMAGES)
    limits.require_chunk_size(Config(rollout=rollout(4096, 1024)), VECTORS)


def test_a_message_about_a_configuration_is_short_and_printable() -> None:
    fields: dict[str, Any] = {f"\x1b[2J{number}": 1 for number in range(100_000)}
    body = Config().to_json().rstrip("}").rstrip() + "".join(f', "{name}": 1' for name in fields) + "}"
    welcome = dataclasses.replace(WELCOME, body=body.replace("\x1b", "\\u001b").encode())
    with pytest.raises(Fatal) as raised:
        actor.service.configuration(welcome)
    assert len(str(raised.value)) < 1_000 and str(raised.value).isprintable()
