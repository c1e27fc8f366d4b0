"""What an actor accepts as weights from a hostile learner."""

from __future__ import annotations

import tracemalloc
from typing import cast

import pytest
import torch

import actor.weights
from actor.weights import WeightsClient
from common.model.bundle import Bundle
from common.model.networks import make_policy
from common.model.policy import Policy
from common.process.lifecycle import EXIT_CONFIGURATION, Fatal
from common.protocol import codec
from common.protocol import messages as m
from common.protocol.sockets import DealerSocket
from common.spaces import Spaces
from learner.presets import PRESETS
from tests.support.clock import Clock

HUGE = (1 << 62) - 1
VECTORS = Spaces((4,), 1, 2)


class Pieces:
    """A weights port that announces `size` bytes and sends pieces of `piece_bytes` without end."""

    def __init__(self, size: int, piece_bytes: int) -> None:
        self._meta = m.WeightsMeta(
            name="bundle", generation=0, version=0, size=size, pieces=HUGE, digest=bytes(32)
        )
        self._piece_bytes, self._number = piece_bytes, -1

    def send(self, parts: list[bytes]) -> bool:
        """Called by the client: begin the blob if the request asks for its beginning."""
        request = codec.decode(parts)
        assert isinstance(request, m.WeightsRequest)
        self._number = -1 if request.piece == 0 else self._number
        return True

    def receive(self, timeout_seconds: float = 0.0, also: int | None = None) -> list[bytes]:
        """Called by the client."""
        self._number += 1
        if self._number == 0:
            return codec.encode(self._meta)
        piece = m.WeightsPiece(
            name="bundle", generation=0, version=0, piece=self._number - 1, body=bytes(self._piece_bytes)
        )
        return codec.encode(piece)

    def close(self, linger_seconds: float = 0.0) -> None:
        """Called by the client."""


def fetch(port: Pieces, messages: int) -> int:
    """Fetch until the client has read so many messages; return the most bytes of memory that it held."""
    client = WeightsClient(lambda: cast(DealerSocket, port))
    reads = iter(range(messages))
    tracemalloc.start()
    try:
        assert client.fetch("bundle", (-1, -1), lambda: next(reads, None) is not None) is None
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_pieces_beyond_the_announced_size_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 MB arrive for a blob of 20 KB."""
    monkeypatch.setattr(actor.weights, "time", Clock())
    assert fetch(Pieces(size=20_000, piece_bytes=10_000), 1_000) < 1_000_000


def test_weights_of_more_than_256_mib_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor.weights, "time", Clock())
    with pytest.raises(Fatal, match="expected weights of at most 256 MiB, got 257 MiB") as raised:
        fetch(Pieces(size=257 << 20, piece_bytes=1), 10)
    assert raised.value.code == EXIT_CONFIGURATION


@pytest.mark.parametrize(
    "mean", [torch.zeros(1_000_000, 1), torch.zeros(1), torch.zeros(()), torch.zeros(4, dtype=torch.float64)]
)
def test_statistics_that_would_broadcast_are_refused(mean: torch.Tensor) -> None:
    """Broadcasting would multiply the memory of every observation."""
    config = PRESETS["cartpole"]
    policy, network = Policy(VECTORS, config), make_policy(VECTORS, config.network, seed=1)
    weights = {f"policy.{name}": value for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match="expected float32 statistics"):
        policy.load(Bundle(0, 0, {**weights, "mean": mean, "std": torch.ones(4)}))
    policy.load(Bundle(0, 0, {**weights, "mean": torch.zeros(4), "std": torch.ones(4)}))
