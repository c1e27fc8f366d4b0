"""Long sequences of well-formed messages with arbitrary contents, beside an honest session."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from common.protocol import codec
from common.protocol import messages as m
from learner.server.sessions import LEASE_SECONDS
from tests.support.admission_harness import (
    CHUNK_STEPS,
    GENERATION,
    HUGE,
    ONE_CHUNK_BATCH,
    AdmissionHarness,
    sid,
)

MESSAGES = 5_000


def arbitrary_message(rng: random.Random, name: bytes) -> m.Message:
    """A well-formed message with arbitrary contents."""

    def number() -> int:
        near = [-1, 0, 1, 3, CHUNK_STEPS, CHUNK_STEPS, 2 * CHUNK_STEPS]
        return rng.choice([*near, rng.randrange(100), 1 << 40, HUGE])

    generation = rng.choice([GENERATION, GENERATION, -1, GENERATION + 1])
    match rng.randrange(6):
        case 0:
            return m.Hello(
                sid=name,
                generation=generation,
                host="host",
                pid=1,
                software="0",
                base=rng.choice([0, number()]),
                produced=rng.choice([0, number()]),
                former={sid(f"former{rng.randrange(50)}"): number() for _ in range(rng.randrange(3))},
            )
        case 1 | 2:
            chunk = m.ChunkMessage(
                sid=name,
                generation=generation,
                version=number(),
                offset=number(),
                steps=rng.choice([CHUNK_STEPS, number()]),
                produced=number(),
                fresh=rng.random() < 0.5,
                truncations=0,
                observation_bytes=0,
                crc=0,
                body=b"",
            )
            return replace(chunk, crc=codec.checksum(chunk)) if rng.random() < 0.5 else chunk
        case 3:
            return m.Skip(
                sid=name,
                generation=generation,
                offset=number(),
                steps=number(),
                produced=number(),
                reason="old_generation",
            )
        case 4:
            return m.Heartbeat(
                sid=name,
                generation=generation,
                produced=number(),
                stats={"phase_env": 1.0, str(number()): 1.0},
            )
        case _:
            others: list[m.Message] = [
                m.Bye(sid=name, produced=number()),
                m.Resend(offset=number()),
                m.Ack(generation=generation, received=1, settled=1, credit=HUGE, version=1),
            ]
            return rng.choice(others)


@pytest.mark.parametrize("seed", range(4))
def test_arbitrary_messages_leave_the_ledger_balanced_and_an_honest_session_served(seed: int) -> None:
    """Three peers send the messages; each chunk of the honest session fills a batch."""
    rng = random.Random(seed)
    harness = AdmissionHarness(config=replace(ONE_CHUNK_BATCH, max_lag=rng.randrange(3)))
    harness.open_batch(0)
    harness.join("honest")
    offset, version, admitted, violations = 0, 0, 0, 0
    for number in range(MESSAGES):
        peer = rng.choice("pqr")
        name = f"{peer if rng.random() < 0.9 else 'x'}{number // 100}"  # a session lasts 100 messages
        harness.deliver(peer, arbitrary_message(rng, sid(name)))
        violations += len(harness.take_violations())
        harness.replies.clear()
        if rng.random() < 0.2:
            harness.now += rng.random()
            harness.registry.tick(harness.now)
            assert harness.registry.sessions.get(sid("honest")) is not None
            if harness.registry.flows[sid("honest")].credit >= offset + CHUNK_STEPS:
                harness.send_chunk("honest", offset, version)
                offset += CHUNK_STEPS
            else:
                harness.send_heartbeat("honest", offset)
        for chunk in harness.chunks:
            admitted += chunk.message.sid == sid("honest")
            harness.registry.settle([(chunk.message.sid, chunk.message.offset)], "trained")
            version += 1
            harness.registry.open(version, harness.now)
        harness.chunks.clear()
        if number % 10 == 0:
            assert harness.registry.ledger.totals().imbalance == 0
    assert violations > 200
    assert admitted == offset // CHUNK_STEPS > 500
    assert len(harness.registry.sessions) <= 4
    assert harness.registry.ledger.totals().produced < MESSAGES * 3 * CHUNK_STEPS
    assert harness.now - 100.0 > LEASE_SECONDS
