"""Serves the last two weight bundles and the target network in pieces. Owned by the network thread."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import safetensors.torch

from common.model.bundle import Bundle
from common.protocol.messages import Message, WeightsMeta, WeightsPiece, WeightsRequest, WeightsUnchanged

PIECE_BYTES = 256 * 1024
_REQUEST_PIECES_MAX = 16  # pieces that one request is answered with


@dataclass(frozen=True, slots=True)
class WeightsBlob:
    """Serialised tensors in pieces, and their description.

    Every connection is sent the same pieces without a copy. A message in a send queue holds one piece and not
    the whole blob, so an actor that never reads does not keep former blobs in memory.
    """

    meta: WeightsMeta
    pieces: tuple[bytes, ...]

    @staticmethod
    def of(name: Literal["bundle", "target"], bundle: Bundle) -> WeightsBlob:
        """Serialise tensors. It takes long, so the network thread must not call it."""
        data = safetensors.torch.save({key: value.contiguous() for key, value in bundle.tensors.items()})
        pieces = tuple(data[first : first + PIECE_BYTES] for first in range(0, len(data), PIECE_BYTES))
        meta = WeightsMeta(
            name=name,
            generation=bundle.generation,
            version=bundle.version,
            size=len(data),
            pieces=len(pieces),
            digest=hashlib.sha256(data).digest(),
        )
        return WeightsBlob(meta, pieces)

    @property
    def version(self) -> tuple[int, int]:
        """Generation and version, which identify a blob among those of its name."""
        return self.meta.generation, self.meta.version

    def piece(self, number: int) -> WeightsPiece:
        """Return one piece of the data."""
        name, generation, version = self.meta.name, *self.version
        body = self.pieces[number]
        return WeightsPiece(name=name, generation=generation, version=version, piece=number, body=body)


class Publisher:
    """Keeps the last two bundles, so that a pull that began before an update can finish."""

    def __init__(self, target: WeightsBlob | None) -> None:
        self._blobs: dict[str, deque[WeightsBlob]] = {"bundle": deque(maxlen=2), "target": deque(maxlen=1)}
        if target is not None:
            self._blobs["target"].append(target)
        self.sent_bytes = 0
        self.pulls = 0

    def publish(self, blob: WeightsBlob) -> None:
        """Make a bundle the newest that actors can fetch."""
        self._blobs["bundle"].append(blob)

    def answer(self, request: WeightsRequest) -> Iterator[Message]:
        """Yield the messages that answer a request; none before the first bundle is published.

        A pull continues with the blob that it began with. If that is no longer kept, it starts again with
        the newest.
        """
        blobs = self._blobs[request.name]
        if not blobs:
            return
        blob, first, held = blobs[-1], max(0, request.piece), (request.generation, request.version)
        if request.piece == 0 and held == blob.version:
            yield WeightsUnchanged(name=request.name)
            return
        if first:
            known = [other for other in blobs if other.version == held]
            blob, first = (known[0], first) if known else (blob, 0)
        if not first:
            self.pulls += 1
            yield blob.meta
        for number in range(first, min(blob.meta.pieces, first + min(request.count, _REQUEST_PIECES_MAX))):
            piece = blob.piece(number)
            self.sent_bytes += len(piece.body)
            yield piece
