"""What the trainer needs of the server: decoded chunks, and the methods that return and settle them.

`learner.server` implements `TrainerServer`, `learner.training` uses it, and neither imports the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from common.model.bundle import Bundle
from common.protocol.chunk import Chunk
from common.protocol.messages import Reason

Verdict = Reason | Literal["trained"]  # what happened to a step


@dataclass(frozen=True, slots=True, eq=False)
class DecodedChunk:
    """A decoded chunk, and the session and batch that it belongs to."""

    sid: bytes
    batch: int
    slot: int
    incarnation: int
    offset: int  # of its first step in the session
    version: int  # of the policy that acted
    fresh: bool  # every lane was reset right before its first step
    chunk: Chunk

    @property
    def order(self) -> tuple[int, int, int]:
        """The sort key within a batch, which does not depend on the time of arrival."""
        return self.slot, self.incarnation, self.offset


class TrainerServer(Protocol):
    """The server, as the trainer calls it. Every method raises the `Fatal` that ended the network thread."""

    def open_batch(self, version: int) -> None:
        """Hand out credit for the batch of `version` and `max_lag` more; -1 is the warm-up."""

    def retry_batch(self, chunks: int) -> None:
        """Hand out credit for `chunks` more chunks of the present batch, because its update failed."""

    def take(self, timeout_seconds: float) -> DecodedChunk | None:
        """Return the next decoded chunk, oldest batch first, or None after the timeout."""

    def settle(self, chunks: Sequence[DecodedChunk], verdict: Verdict) -> None:
        """Record the steps of `chunks` in the ledger as trained, or as dropped for a reason."""

    def record_violations(self, chunks: Sequence[DecodedChunk], violation: str) -> None:
        """Record a violation for the session of each chunk; too many ban its connection."""

    def publish(self, bundle: Bundle) -> None:
        """Serialise a bundle and make it the newest that actors can fetch."""

    def accounting(self) -> str:
        """Return ledger and sessions as JSON for a checkpoint."""
