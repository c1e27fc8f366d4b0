"""Fetches weights: in pieces from the learner's weights port, or through the parent of `--procs`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import safetensors.torch
import structlog
import torch

from actor import limits
from common.process.lifecycle import EXIT_CONFIGURATION, Fatal
from common.process.parent_link import ParentLink
from common.protocol import codec
from common.protocol.messages import (
    BlobName,
    Message,
    WeightsMeta,
    WeightsPiece,
    WeightsRequest,
    WeightsUnchanged,
)
from common.protocol.sockets import DealerSocket

log = structlog.get_logger()

PIECE_MESSAGE_BYTES = 1 << 20
_WINDOW_PIECES = 8
_REPEAT_SECONDS = 2.0  # after this time without a piece, the request is repeated
_FETCH_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Blob:
    """Named tensors of one version, as safetensors bytes."""

    generation: int
    version: int
    data: bytes

    def tensors(self) -> dict[str, torch.Tensor]:
        """Decode the tensors."""
        return safetensors.torch.load(self.data)


class WeightsSource(Protocol):
    """Fetches the newest weights for an actor."""

    def fetch(self, name: BlobName, held: tuple[int, int], keep_waiting: Callable[[], bool]) -> Blob | None:
        """Fetch the newest blob.

        Args:
            name: bundle or target.
            held: generation and version that the caller has, (-1, -1) for none.
            keep_waiting: called at least twice a second; False ends the wait.

        Returns:
            None if there is no newer blob, or the wait ended.
        """

    def reconnect(self) -> None:
        """Replace the connection: a silent learner may have ended without closing it."""

    def close(self) -> None:
        """Close the connection."""


class WeightsClient:
    """Fetches from a learner's weights port, eight pieces per request; repeats an unanswered request."""

    def __init__(self, connect: Callable[[], DealerSocket]) -> None:
        self._connect = connect
        self._client = connect()

    def fetch(self, name: BlobName, held: tuple[int, int], keep_waiting: Callable[[], bool]) -> Blob | None:
        """See `WeightsSource.fetch`."""
        meta: WeightsMeta | None = None
        pieces, data = 0, bytearray()
        deadline = time.monotonic() + _FETCH_SECONDS
        requested_at = -_REPEAT_SECONDS
        while keep_waiting() and time.monotonic() < deadline:
            if time.monotonic() - requested_at > _REPEAT_SECONDS:
                self._request(name, held, meta, pieces)
                requested_at = time.monotonic()
            match self._receive():
                case WeightsUnchanged() as message if message.name == name and meta is None:
                    return None
                case WeightsMeta() as message if message.name == name:
                    if meta != message:
                        _require_blob_size(message.size)
                        meta, pieces, data = message, 0, bytearray()
                case WeightsPiece() as message if meta is not None and _continues(message, meta, pieces):
                    pieces += 1
                    data += message.body
                    requested_at = time.monotonic()
                    if pieces == meta.pieces or len(data) > meta.size:
                        if len(data) == meta.size and hashlib.sha256(data).digest() == meta.digest:
                            return Blob(meta.generation, meta.version, bytes(data))
                        meta, pieces, data = None, 0, bytearray()
                    if pieces % _WINDOW_PIECES == 0:
                        self._request(name, held, meta, pieces)
        self.reconnect()  # pieces of this fetch must not reach the next one
        return None

    def reconnect(self) -> None:
        """See `WeightsSource.reconnect`."""
        self._client.close()
        self._client = self._connect()

    def _receive(self) -> Message | None:
        """The next message; None if none arrives, or if it is damaged."""
        parts = self._client.receive(0.25)
        try:
            return codec.decode(parts) if parts is not None else None
        except codec.WireError as error:
            log.warning("message_refused", reason=error.reason, text=str(error))
            return None

    def _request(self, name: BlobName, held: tuple[int, int], meta: WeightsMeta | None, piece: int) -> None:
        # A request for piece 0 names what the caller has: a learner does not send the version that it names.
        generation, version = held if meta is None or piece == 0 else (meta.generation, meta.version)
        request = WeightsRequest(
            name=name,
            generation=generation,
            version=version,
            piece=piece,
            count=_WINDOW_PIECES,
        )
        self._client.send(codec.encode(request))

    def close(self) -> None:
        """See `WeightsSource.close`."""
        self._client.close()


def _require_blob_size(size: int) -> None:
    if size > limits.BLOB_BYTES:
        raise Fatal(
            EXIT_CONFIGURATION,
            f"expected weights of at most {limits.BLOB_BYTES >> 20} MiB, got {size >> 20} MiB: lower "
            "network.hidden",
        )


def _continues(piece: WeightsPiece, meta: WeightsMeta, count: int) -> bool:
    return (piece.name, piece.generation, piece.version, piece.piece) == (
        meta.name,
        meta.generation,
        meta.version,
        count,
    )


class SharedWeights:
    """Reads the files into which the parent of `--procs` writes the weights for all its actors."""

    def __init__(self, parent: ParentLink) -> None:
        self._parent = parent

    def fetch(self, name: BlobName, held: tuple[int, int], keep_waiting: Callable[[], bool]) -> Blob | None:
        """See `WeightsSource.fetch`."""
        self._parent.send({"want": name, "held": held})
        deadline = time.monotonic() + _FETCH_SECONDS
        while keep_waiting() and time.monotonic() < deadline and not self._parent.gone():
            note = self._parent.receive(0.25)
            if note is not None and note.get("have") == name:
                if note["path"] is None:
                    return None
                return Blob(note["generation"], note["version"], Path(note["path"]).read_bytes())
        return None

    def reconnect(self) -> None:
        """Do nothing: the parent replaces a silent connection."""

    def close(self) -> None:
        """See `WeightsSource.close`."""
