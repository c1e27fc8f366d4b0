"""200,000 damaged messages are decoded or refused with a WireError; 1,500 of them leak no memory."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from collections.abc import Callable

import pytest

from common.config import RolloutConfig
from common.protocol import codec
from common.protocol import messages as m
from common.protocol.chunk import Chunk
from common.spaces import Spaces
from tests.support.chunk_messages import IMAGES, TORQUES, VECTORS, chunk_message
from tests.support.result_files import keep
from tests.support.wire_fuzz import CORPUS, mutant, mutant_chunk

ROLLOUT = RolloutConfig(steps=8, lanes=2, batch_lanes=2)
SEEDS, CASES = 16, 12_500

Source = tuple[m.Message, list[bytes], Spaces]


@pytest.fixture(scope="module")
def sources(make_chunk: Callable[..., Chunk]) -> list[Source]:
    """One message of each kind, and chunks of each kind of task."""
    chunks = []
    for spaces in (IMAGES, VECTORS, TORQUES):
        for truncated in ([], [(2, 1)]):
            chunk = make_chunk(8, 2, spaces, 5, truncated=truncated)
            if spaces.is_image:  # like those of a game, these images compress
                chunk.observation[1:, :, 8:] = chunk.observation[:1, :, 8:]
            chunks.append((chunk_message(chunk), spaces))
    whole = [(message, IMAGES) for message in CORPUS] + chunks
    return [(message, codec.encode(message), spaces) for message, spaces in whole]


def case(sources: list[Source], rng: random.Random) -> tuple[list[bytes], Spaces]:
    """One damaged message."""
    message, parts, spaces = rng.choice(sources)
    if isinstance(message, m.ChunkMessage) and len(parts[1]) > 4 and rng.random() < 0.7:
        return codec.encode(mutant_chunk(message, rng)), spaces
    return mutant(message, parts, rng), spaces


def outcome(parts: list[bytes], spaces: Spaces) -> str:
    """The kind of result; any exception but a WireError fails the test."""
    try:
        message = codec.decode(parts)
        assert isinstance(message, m.Message)
        if not isinstance(message, m.ChunkMessage):
            return "message"
        chunk = codec.unpack(message, ROLLOUT, spaces)
    except codec.WireError as error:
        assert len(str(error)) < 2_000
        return error.reason
    assert chunk.observation.shape == (spaces.stack + 8, 2, *spaces.observation)
    return "chunk"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_damaged_message_is_read_or_refused(seed: int, sources: list[Source]) -> None:
    """12,500 cases per seed raise nothing but a WireError, and every outcome occurs."""
    rng = random.Random(seed)
    outcomes = Counter(outcome(*case(sources, rng)) for _ in range(CASES))
    assert outcomes.keys() == {"message", "chunk", "frames", "version", "kind", "size", "header", "array"}
    assert min(outcomes.values()) > 50, outcomes
    keep(f"mutated-messages-{seed}", {"cases": CASES, "outcomes": outcomes})


def most_expensive(sources: list[Source]) -> tuple[list[bytes], Spaces]:
    """The valid chunk that takes most memory to unpack."""
    return next((parts, spaces) for message, parts, spaces in reversed(sources) if spaces is IMAGES)


def test_refused_messages_leak_no_memory(sources: list[Source]) -> None:
    """The peak of each case is less than that of 1.5 valid chunks."""
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
