"""Which messages answer a request for weights."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from common.model.bundle import Bundle
from common.protocol.messages import Message, WeightsMeta, WeightsPiece, WeightsRequest, WeightsUnchanged
from learner.server.publisher import PIECE_BYTES, Publisher, WeightsBlob

ROWS = 3 * PIECE_BYTES // 4  # float32: with the header, 4 pieces
FIRST = WeightsRequest(name="bundle", generation=-1, version=-1, piece=0, count=16)


def blob_of(version: int, rows: int = ROWS) -> WeightsBlob:
    return WeightsBlob.of("bundle", Bundle(2, version, {"weight": torch.full((rows,), float(version))}))


def pieces_of(answers: list[Message]) -> list[WeightsPiece]:
    return [answer for answer in answers if isinstance(answer, WeightsPiece)]


def test_nothing_is_sent_before_the_first_bundle() -> None:
    assert list(Publisher(None).answer(FIRST)) == []


def test_the_pieces_of_a_bundle_make_up_its_tensors() -> None:
    publisher = Publisher(None)
    publisher.publish(blob_of(7))
    meta, *rest = publisher.answer(FIRST)
    assert isinstance(meta, WeightsMeta) and (meta.generation, meta.version) == (2, 7)
    pieces = pieces_of(rest)
    assert [piece.piece for piece in pieces] == list(range(meta.pieces)) == [0, 1, 2, 3]
    data = b"".join(piece.body for piece in pieces)
    assert len(data) == meta.size and hashlib.sha256(data).digest() == meta.digest
    assert torch.equal(safetensors.torch.load(data)["weight"], torch.full((ROWS,), 7.0))
    assert (publisher.pulls, publisher.sent_bytes) == (1, meta.size)


def test_the_newest_bundle_is_not_sent_to_an_actor_that_holds_it() -> None:
    publisher = Publisher(None)
    publisher.publish(blob_of(7))
    held = replace(FIRST, generation=2, version=7)
    assert list(publisher.answer(held)) == [WeightsUnchanged(name="bundle")]
    assert publisher.pulls == 0
    publisher.publish(blob_of(8))
    meta = next(publisher.answer(held))
    assert isinstance(meta, WeightsMeta) and meta.version == 8


@pytest.mark.parametrize(("updates", "answered"), [(0, 7), (1, 7), (2, 9)])
def test_a_pull_finishes_with_its_bundle_while_that_is_one_of_the_last_two(
    updates: int, answered: int
) -> None:
    """Later it starts again with the newest."""
    publisher = Publisher(None)
    for version in range(7, 8 + updates):
        publisher.publish(blob_of(version))
    answers = list(publisher.answer(replace(FIRST, generation=2, version=7, piece=2, count=1)))
    (piece,) = pieces_of(answers)
    assert (piece.version, piece.piece) == (answered, 2 if answered == 7 else 0)
    assert any(isinstance(answer, WeightsMeta) for answer in answers) == (answered != 7)


def test_a_request_gets_at_most_sixteen_pieces() -> None:
    publisher = Publisher(None)
    publisher.publish(blob_of(0, rows=20 * PIECE_BYTES // 4))
    assert len(pieces_of(list(publisher.answer(replace(FIRST, count=1_000))))) == 16


def test_two_answers_hold_the_same_pieces_and_no_copies() -> None:
    publisher = Publisher(None)
    publisher.publish(blob_of(0))
    first, second = (pieces_of(list(publisher.answer(FIRST))) for _ in range(2))
    assert len(first) == 4
    assert all(one.body is other.body for one, other in zip(first, second, strict=True))


def test_the_target_is_served_beside_the_bundles() -> None:
    target = WeightsBlob.of("target", Bundle(0, 0, {"weight": torch.zeros(3)}))
    meta, piece = Publisher(target).answer(replace(FIRST, name="target"))
    assert isinstance(meta, WeightsMeta) and meta.name == "target"
    assert isinstance(piece, WeightsPiece) and (piece.body,) == target.pieces
