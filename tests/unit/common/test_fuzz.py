"""200,000 damaged messages: a message or a WireError comes out, soon, and nothing stays in memory."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable

import psutil
import pytest

from common import messages as m
from common import wire
from common.chunk import Chunk, Spaces
from common.config import RolloutConfig
from tests.artefacts import keep
from tests.mutants import CORPUS, mutant, mutant_chunk
from tests.unit.common.test_wire import IMAGES, TORQUES, VECTORS, chunk_message

ROLLOUT = RolloutConfig(steps=8, lanes=2, batch_lanes=2)
EVERY = [(t, lane) for t in range(8) for lane in range(2)]
SEEDS, CASES, WARM = 16, 12_500, 2_500
SOON_SECONDS = 0.005

Source = tuple[m.Message, list[bytes], Spaces]


@pytest.fixture(scope="module")
def sources(make_chunk: Callable[..., Chunk]) -> list[Source]:
    """One message of each kind, and chunks of each kind of task."""
    chunks = []
    for spaces in (IMAGES, VECTORS, TORQUES):
        for truncated in ([], [(2, 1)]):
            chunk = make_chunk(8, 2, spaces, 5, truncated=truncated)
            if spaces.is_image:  # a still picture, with some noise: a game compresses
                chunk.observation[1:, :, 8:] = chunk.observation[:1, :, 8:]
            chunks.append((chunk_message(chunk), spaces))
    whole = [(message, IMAGES) for message in CORPUS] + chunks
    return [(message, wire.encode(message), spaces) for message, spaces in whole]


def case(sources: list[Source], rng: random.Random) -> tuple[list[bytes], Spaces]:
    """One damaged message."""
    message, parts, spaces = rng.choice(sources)
    if isinstance(message, m.ChunkMessage) and len(parts[1]) > 4 and rng.random() < 0.7:
        return wire.encode(mutant_chunk(message, rng)), spaces
    return mutant(message, parts, rng), spaces


def outcome(parts: list[bytes], spaces: Spaces) -> str:
    """What comes out; anything else than a message, a chunk or a WireError goes up."""
    try:
        message = wire.decode(parts)
        assert isinstance(message, m.Message)
        if not isinstance(message, m.ChunkMessage):
            return "message"
        chunk = wire.unpack(message, ROLLOUT, spaces)
    except wire.WireError as error:
        assert len(str(error)) < 2_000
        return error.reason
    assert chunk.observation.shape == (spaces.stack + 8, 2, *spaces.observation)
    return "chunk"


def cpu_seconds(parts: list[bytes], spaces: Spaces) -> float:
    """Time of this thread; it has no part of what other processes do."""
    start = time.thread_time()
    outcome(parts, spaces)
    return time.thread_time() - start


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_comes_is_a_message_or_refused_soon(seed: int, sources: list[Source]) -> None:
    """Of 12,500 cases a seed: every outcome occurs, 99.9 % take less than 5 ms, memory is flat."""
    rng, process = random.Random(seed), psutil.Process()
    outcomes: dict[str, int] = {}
    slow: list[tuple[float, list[bytes], Spaces]] = []
    held_bytes = 0
    for number in range(CASES):
        if number == WARM:
            held_bytes = process.memory_info().rss
        parts, spaces = case(sources, rng)
        start = time.thread_time()
        result = outcome(parts, spaces)
        seconds = time.thread_time() - start
        outcomes[result] = outcomes.get(result, 0) + 1
        if seconds > SOON_SECONDS / 10:
            slow.append((seconds, parts, spaces))
            slow = sorted(slow, key=lambda entry: -entry[0])[: CASES // 1000 + 1]
    grown = process.memory_info().rss - held_bytes
    assert len(slow) <= CASES // 1000 or slow[-1][0] < SOON_SECONDS, slow[-1][0]
    assert grown < 4 * 2**20, f"{grown} bytes more"  # less than a message of the smallest kind per case
    known = {"message", "chunk", "frames", "version", "kind", "size", "header", "array"}
    assert outcomes.keys() == known and min(outcomes.values()) > 50, outcomes
    legal_seconds = min(cpu_seconds(*most_expensive(sources)) for _ in range(5))
    # The work is the same each time, its price is not: the least counts.
    slowest_seconds = max(min(cpu_seconds(parts, spaces) for _ in range(5)) for _, parts, spaces in slow[:3])
    assert slowest_seconds < 2 * legal_seconds
    keep(
        f"mutated-messages-{seed}",
        {
            "cases": CASES,
            "outcomes": outcomes,
            "cases_over_5_ms": sum(spent >= SOON_SECONDS for spent, *_ in slow),
            "slowest_to_legal_ratio": slowest_seconds / legal_seconds,
            "memory_growth_bytes": grown,
        },
    )


def most_expensive(sources: list[Source]) -> tuple[list[bytes], Spaces]:
    """The legal chunk with most to unpack."""
    return next((parts, spaces) for message, parts, spaces in reversed(sources) if spaces is IMAGES)


def test_what_was_refused_leaves_nothing_in_memory(sources: list[Source]) -> None:
    """And no case takes more at once than a legal chunk and a half."""
    rng = random.Random(99)
    cases = [case(sources, rng) for _ in range(1_500)]
    tracemalloc.start()
    try:
        outcome(*most_expensive(sources))
        most_bytes = 1.5 * tracemalloc.get_traced_memory()[1]
        for parts, spaces in cases[:500]:
            outcome(parts, spaces)
        held_bytes = tracemalloc.get_traced_memory()[0]
        for parts, spaces in cases[500:]:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            result = outcome(parts, spaces)
            assert tracemalloc.get_traced_memory()[1] - before < most_bytes, (result, parts[0][:64])
        assert tracemalloc.get_traced_memory()[0] - held_bytes < 64 * 1024
    finally:
        tracemalloc.stop()
