"""Games as their scores, whatever chunks they are cut into."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from common.protocol.chunk import Chunk
from common.spaces import Spaces
from learner.interface import DecodedChunk
from learner.training.episodes import Episode, EpisodeTracker

T, B = 7, 3
SPACES = Spaces((2,), 1, 5)


def delivered(
    chunk: Chunk, offset: int, slot: int = 4, incarnation: int = 0, fresh: bool | None = None
) -> DecodedChunk:
    """The chunk, from that place; lanes are reset before the first step of a session unless told."""
    reset = offset == 0 if fresh is None else fresh
    return DecodedChunk(b"s" * 16, 0, slot, incarnation, offset, 0, reset, chunk)


def rows(chunk: Chunk, start: int, stop: int) -> Chunk:
    """Steps [start, stop) of a chunk, as far as scores are concerned."""
    names = ("reward", "terminated", "truncated")
    return dataclasses.replace(chunk, **{name: getattr(chunk, name)[start:stop] for name in names})


@pytest.fixture
def chunk(make_chunk: Callable[..., Chunk]) -> Chunk:
    """Two games end in lane 0, one by a time limit in lane 1, none in lane 2."""
    return make_chunk(T, B, SPACES, 0, terminated=[(2, 0), (6, 0)], truncated=[(4, 1)])


def test_scores_are_sums_of_raw_rewards(chunk: Chunk) -> None:
    """From the step after one end to the next; a time limit ends a game too."""
    tracker, reward = EpisodeTracker(), chunk.reward.astype(float)
    games = tracker.advance(delivered(chunk, 0))
    expected = [(0, 3, reward[:3, 0].sum()), (1, 5, reward[:5, 1].sum()), (0, 4, reward[3:, 0].sum())]
    assert [(game.lane, game.steps) for game in games] == [(lane, steps) for lane, steps, _ in expected]
    np.testing.assert_allclose([game.score for game in games], [score for *_, score in expected])
    assert {game.slot for game in games} == {4}
    assert (tracker.count, tracker.best) == (3, max(game.score for game in games))
    assert tracker.mean == pytest.approx(np.mean([game.score for game in games]))


@pytest.mark.parametrize("cut", range(1, T))
def test_games_run_on_over_chunks(chunk: Chunk, cut: int) -> None:
    """Two chunks tell the games that one tells."""
    whole = EpisodeTracker().advance(delivered(chunk, 0))
    tracker = EpisodeTracker()
    games = tracker.advance(delivered(rows(chunk, 0, cut), 0))
    games += tracker.advance(delivered(rows(chunk, cut, T), cut * B))
    assert games == whole


def test_a_game_with_a_hole_is_not_reported(chunk: Chunk) -> None:
    """After a chunk that was not trained on, each lane counts again from its next end."""
    tracker = EpisodeTracker()
    tracker.advance(delivered(chunk, 0))
    games = tracker.advance(delivered(chunk, 2 * T * B))
    assert [(game.lane, game.steps) for game in games] == [(0, 4)]


def test_reset_lanes_begin_new_games(chunk: Chunk) -> None:
    """In another incarnation or in the same one, at any offset."""
    tracker, alone = EpisodeTracker(), EpisodeTracker().advance(delivered(chunk, 0))
    tracker.advance(delivered(rows(chunk, 0, 2), 0))
    assert tracker.advance(delivered(chunk, 990, incarnation=1, fresh=True)) == alone
    tracker.advance(delivered(rows(chunk, 0, 2), 0))
    assert tracker.advance(delivered(chunk, 0, incarnation=1, fresh=True)) == alone


def test_an_incarnation_whose_first_chunk_was_dropped_is_in_the_middle_of_its_games(chunk: Chunk) -> None:
    """Each of its lanes counts from the next end on."""
    for tracker in (EpisodeTracker(), EpisodeTracker()):
        games = tracker.advance(delivered(chunk, T * B, incarnation=1, fresh=False))
        assert [(game.lane, game.steps) for game in games] == [(0, 4)]
        tracker.advance(delivered(rows(chunk, 0, 2), 0))


def test_a_slot_that_changes_hands_within_a_batch_reports_true_games(
    make_chunk: Callable[..., Chunk],
) -> None:
    """The earlier incarnation is ahead in the batch, though its offset is larger."""
    earlier = delivered(make_chunk(4, 1, SPACES, 0, terminated=[(1, 0)]), 8, incarnation=0)
    before = delivered(make_chunk(8, 1, SPACES, 1), 0, incarnation=0)
    later = delivered(make_chunk(6, 1, SPACES, 2, terminated=[(5, 0)]), 0, incarnation=1)
    tracker = EpisodeTracker()
    tracker.advance(before)
    games = [
        game
        for chunk in sorted([later, earlier], key=lambda one: one.order)
        for game in tracker.advance(chunk)
    ]
    assert [game.steps for game in games] == [10, 6]


def test_slots_do_not_mix(chunk: Chunk) -> None:
    """Each slot's lanes are its own."""
    tracker = EpisodeTracker()
    tracker.advance(delivered(rows(chunk, 0, 2), 0, slot=0))
    games = tracker.advance(delivered(chunk, 0, slot=1))
    alone = EpisodeTracker().advance(delivered(chunk, 0, slot=1))
    assert games == alone
    assert all(isinstance(game, Episode) and game.slot == 1 for game in games)


def test_only_the_last_hundred_count_for_the_mean(chunk: Chunk) -> None:
    """Older games leave it; the best score stays."""
    tracker = EpisodeTracker()
    first = tracker.advance(delivered(dataclasses.replace(chunk, reward=chunk.reward + 100), 0))
    for number in range(1, 41):
        tracker.advance(delivered(chunk, number * T * B))
    assert tracker.count == 123
    assert len(tracker.recent) == 100
    assert tracker.mean is not None
    assert tracker.mean < 50 < tracker.best == max(game.score for game in first)


def test_state_survives_a_restart(chunk: Chunk) -> None:
    """Figures come back, also those of a run without a finished game."""
    for tracker in (EpisodeTracker(), EpisodeTracker()):
        other = EpisodeTracker()
        other.load(tracker.state())
        assert (other.count, other.best, other.mean) == (tracker.count, tracker.best, tracker.mean)
    tracker.advance(delivered(chunk, 0))
    other.load(tracker.state())
    assert other.state() == tracker.state()
    assert other.count == 3
