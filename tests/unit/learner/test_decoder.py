"""What the decoder returns to the trainer, in which order, and what it does with an unreadable chunk."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields

import numpy as np
import pytest

from common.config import RolloutConfig
from common.protocol import codec
from common.protocol.chunk import Chunk
from common.spaces import Spaces
from learner.interface import DecodedChunk
from learner.server.decoder import ChunkDecoder
from learner.server.scheduler import AdmittedChunk
from tests.support.processes import PATIENCE_SECONDS

T, B = 5, 2
SPACES = Spaces((3,), 1, 4)
ROLLOUT = RolloutConfig(steps=T, lanes=B, batch_lanes=2 * B)
Maker = Callable[..., Chunk]


class RecordingDecoder(ChunkDecoder):
    """A decoder with a queue of the chunks that it refuses."""

    def __init__(self) -> None:
        self.refused: queue.Queue[tuple[AdmittedChunk, str]] = queue.Queue()
        super().__init__(ROLLOUT, SPACES, lambda *chunk: self.refused.put(chunk))

    def take_chunk(self) -> DecodedChunk:
        """Wait for the next decoded chunk."""
        decoded = self.take(PATIENCE_SECONDS)
        assert decoded is not None
        return decoded


@pytest.fixture
def decoder() -> Iterator[RecordingDecoder]:
    """A decoder that is not started, so that a test decides what waits when it starts."""
    decoder = RecordingDecoder()
    yield decoder
    decoder.close()


def admitted(chunk: Chunk, batch: int, slot: int = 0, body: bytes | None = None) -> AdmittedChunk:
    packed = codec.pack(chunk)
    message = packed.message(
        sid=bytes([slot]) * 16,
        generation=0,
        version=batch,
        offset=batch * T * B,
        steps=T * B,
        produced=(batch + 1) * T * B,
        fresh=False,
    )
    if body is not None:
        message = codec.Packed(packed.truncations, packed.observation_bytes, body).message(
            sid=message.sid, generation=0, version=batch, offset=0, steps=T * B, produced=T * B, fresh=False
        )
    return AdmittedChunk(batch, slot, 1, message)


def test_a_chunk_is_decoded_with_its_place_and_its_arrays(
    decoder: RecordingDecoder, make_chunk: Maker
) -> None:
    chunk = make_chunk(T, B, SPACES, 3)
    decoder.submit(admitted(chunk, batch=4, slot=6))
    assert decoder.waiting_chunks == 1
    decoder.start()
    decoded = decoder.take_chunk()
    assert (decoded.sid, decoded.batch, decoded.version) == (bytes([6]) * 16, 4, 4)
    assert decoded.order == (6, 1, 4 * T * B)
    for field in fields(chunk):
        np.testing.assert_array_equal(getattr(decoded.chunk, field.name), getattr(chunk, field.name))
    assert decoder.waiting_chunks == 0 and decoder.decode_seconds > 0


def test_the_oldest_batch_is_decoded_first_and_within_it_the_first_arrival(
    decoder: RecordingDecoder, make_chunk: Maker
) -> None:
    """The trainer needs the batch of the present version first."""
    for batch, slot in ((2, 0), (1, 1), (2, 2), (1, 3)):
        decoder.submit(admitted(make_chunk(T, B, SPACES, slot), batch, slot))
    decoder.start()
    taken = [decoder.take_chunk() for _ in range(4)]
    assert [(decoded.batch, decoded.slot) for decoded in taken] == [(1, 1), (1, 3), (2, 0), (2, 2)]


def test_an_unreadable_chunk_is_refused_and_the_next_one_decoded(
    decoder: RecordingDecoder, make_chunk: Maker
) -> None:
    chunk = make_chunk(T, B, SPACES, 3)
    broken, whole = admitted(chunk, 0, body=b"no body"), admitted(chunk, 1)
    decoder.submit(broken)
    decoder.submit(whole)
    decoder.start()
    assert decoder.take_chunk().batch == 1
    refused, reason = decoder.refused.get(timeout=PATIENCE_SECONDS)
    assert refused is broken and reason.startswith("expected ")


def test_take_returns_none_while_nothing_waits(decoder: RecordingDecoder) -> None:
    decoder.start()
    assert decoder.take(0.0) is None


def test_take_raises_what_ended_the_thread(make_chunk: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the trainer would wait for ever."""
    failing, ended = RecordingDecoder(), threading.Event()

    def unpack(*rest: object) -> None:
        ended.set()
        raise MemoryError("no room")

    monkeypatch.setattr(codec, "unpack", unpack)
    failing.submit(admitted(make_chunk(T, B, SPACES, 3), 0))
    failing.start()
    assert ended.wait(PATIENCE_SECONDS)
    failing.close()
    with pytest.raises(MemoryError, match="no room"):
        failing.take(0.0)
