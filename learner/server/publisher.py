"""Bundles on offer: the last two and the target, in pieces, to whoever asks. Owned by the network thread."""

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
_MOST_PIECES = 16  # per request


@dataclass(frozen=True, slots=True)
class WeightsBlob:
    """One blob, ready to be cut."""

    meta: WeightsMeta
    data: bytes

    @staticmethod
    def of(name: Literal["bundle", "target"], bundle: Bundle) -> WeightsBlob:
        """Serialise tensors; called by the trainer, so that the network thread need not."""
        data = safetensors.torch.save({key: value.contiguous() for key, value in bundle.tensors.items()})
        pieces = -(-len(data) // PIECE_BYTES)
        digest = hashlib.sha256(data).digest()
        return WeightsBlob(
            WeightsMeta(
                name=name,
                generation=bundle.generation,
                version=bundle.version,
                size=len(data),
                pieces=pieces,
                digest=digest,
            ),
            data,
        )


class Publisher:
    """Keeps the last two bundles, so that a pull that began before an update can end."""

    def __init__(self, target: WeightsBlob | None) -> None:
        self._offers: dict[str, deque[WeightsBlob]] = {"bundle": deque(maxlen=2), "target": deque(maxlen=1)}
        if target is not None:
            self._offers["target"].append(target)
        self.sent_bytes = 0
        self.pulls = 0

    def publish(self, offer: WeightsBlob) -> None:
        """Make a bundle the newest."""
        self._offers["bundle"].append(offer)

    def answer(self, request: WeightsRequest) -> Iterator[Message]:
        """The messages that answer a request; none while there is nothing to offer."""
        offers = self._offers[request.name]
        if not offers:
            return
        held = (request.generation, request.version)
        offer = offers[-1]
        if request.piece == 0 and held == (offer.meta.generation, offer.meta.version):
            yield WeightsUnchanged(name=request.name)
            return
        first = request.piece
        if first > 0:
            known = [other for other in offers if held == (other.meta.generation, other.meta.version)]
            offer = known[0] if known else offer
            first = first if known else 0
        if first <= 0:
            first = 0
            self.pulls += 1
            yield offer.meta
        meta = offer.meta
        for piece in range(first, min(meta.pieces, first + min(request.count, _MOST_PIECES))):
            body = offer.data[piece * PIECE_BYTES : (piece + 1) * PIECE_BYTES]
            self.sent_bytes += len(body)
            yield WeightsPiece(
                name=meta.name, generation=meta.generation, version=meta.version, piece=piece, body=body
            )
