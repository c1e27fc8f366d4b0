"""Measures the processor time to read or refuse each damaged message, compared with a valid chunk."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time

from common import envs
from common.config import EnvConfig, RolloutConfig
from common.model.precision import configure_torch
from common.protocol import codec
from common.protocol.messages import ChunkMessage
from common.spaces import Spaces
from tests.bench.machine import hardware
from tests.support.fake_fleet import record
from tests.support.wire_fuzz import CORPUS, mutant, mutant_chunk

_ENV = EnvConfig(id="breakout")
_ROLLOUT = RolloutConfig(steps=128, lanes=1, batch_lanes=1)
_CHUNKS = 8
_CASES = 20_000
_SLOW_SECONDS = 0.005
_SLOWEST = 20  # cases that are measured again, as one measurement may include an interrupt or a page fault
_ROUNDS = 5


def measure() -> dict[str, object]:
    """Measure one message of each kind and recorded chunks of Breakout, with seeded damage."""
    configure_torch(threads=1)
    spaces = envs.spaces(_ENV)
    template = next(message for message in CORPUS if isinstance(message, ChunkMessage))
    chunks = [_message(template, recording.packed) for recording in record(_ENV, _ROLLOUT, _CHUNKS)]
    legal_seconds = max(_least_seconds(codec.encode(chunk), spaces) for chunk in chunks)
    rng = random.Random(0)
    cases = [_damaged(chunks, rng) for _ in range(_CASES)]
    seconds = [_seconds(parts, spaces) for parts in cases]
    slowest = sorted(range(_CASES), key=lambda case: seconds[case])[-_SLOWEST:]
    slowest_seconds = max(_least_seconds(cases[case], spaces) for case in slowest)
    return {
        **hardware(),
        "benchmark": "damage",
        "cases": _CASES,
        "cases_over_5_ms": sum(spent >= _SLOW_SECONDS for spent in seconds),
        "legal_chunk_ms": round(1e3 * legal_seconds, 3),
        "slowest_ms": round(1e3 * slowest_seconds, 3),
        "slowest_to_legal_ratio": round(slowest_seconds / legal_seconds, 3),
    }


def _message(template: ChunkMessage, packed: codec.Packed) -> ChunkMessage:
    """The message of a chunk; the session and its offsets do not matter here."""
    message = dataclasses.replace(
        template,
        truncations=packed.truncations,
        observation_bytes=packed.observation_bytes,
        body=packed.body,
    )
    return dataclasses.replace(message, crc=codec.checksum(message))


def _damaged(chunks: list[ChunkMessage], rng: random.Random) -> list[bytes]:
    """A damaged message; half of them are chunks, most with an undamaged header."""
    chunk = rng.choice(chunks)
    if rng.random() < 0.4:
        return codec.encode(mutant_chunk(chunk, rng))
    message = rng.choice([*CORPUS, chunk, chunk, chunk])
    return mutant(message, codec.encode(message), rng)


def _least_seconds(parts: list[bytes], spaces: Spaces) -> float:
    """The minimum over several rounds, which other processes disturb least."""
    return min(_seconds(parts, spaces) for _ in range(_ROUNDS))


def _seconds(parts: list[bytes], spaces: Spaces) -> float:
    """The processor time of this thread to read or refuse one message."""
    start = time.thread_time()
    with contextlib.suppress(codec.WireError):
        message = codec.decode(parts)
        if isinstance(message, ChunkMessage):
            codec.unpack(message, _ROLLOUT, spaces)
    return time.thread_time() - start
