"""Messages of chunks for tests, and the spaces of three kinds of task."""

from __future__ import annotations

import dataclasses

from common.protocol import codec
from common.protocol import messages as m
from common.protocol.chunk import Chunk
from common.spaces import Spaces
from tests.support.wire_fuzz import SID

IMAGES, VECTORS = Spaces((84, 84), 4, 7), Spaces((5,), 1, 3)
TORQUES = Spaces((5,), 1, 3, ((-2.0, 2.0),) * 3)  # continuous actions


def chunk_message(chunk: Chunk) -> m.ChunkMessage:
    """The message of a chunk, as an actor makes it."""
    return codec.pack(chunk).message(
        sid=SID,
        generation=0,
        version=0,
        offset=0,
        steps=chunk.reward.size,
        produced=chunk.reward.size,
        fresh=True,
    )


def same_arrays(one: Chunk, other: Chunk) -> bool:
    """Whether types, shapes and bits are equal."""
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(Chunk)]
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)
