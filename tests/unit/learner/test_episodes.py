"""Episodes and their scores, in any split into chunks."""

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


def decoded(
    chunk: Chunk, offset: int, slot: int = 4, incarnation: int = 0, fresh: bool | None = None
) -> DecodedChunk:
    """The chunk at an offset of its session; by default lanes are reset before offset 0."""
    reset = offset == 0 if fresh is None else fresh
    return DecodedChunk(b"s" * 16, 0, slot, incarnation, offset, 0, reset, chunk)


def rows(chunk: Chunk, start: int, stop: int) -> Chunk:
    """Steps [start, stop) of the fields of a chunk that scores need."""
    names = ("reward", "terminated", "truncated")
    return dataclasses.replace(chunk, **{name: getattr(chunk, name)[start:stop] for name in names})


@pytest.fixture
def chunk(make_chunk: Callable[..., Chunk]) -> Chunk:
    """Two episodes end in lane 0, one by a time limit in lane 1, none in lane 2."""
    return make_chunk(T, B, SPACES, 0, terminated=[(2, 0), (6, 0)], truncated=[(4, 1)])


def test_scores_are_sums_of_raw_rewards(chunk: Chunk) -> None:
    """Each score sums the steps from one end to the next; a time limit is an end."""
    tracker, reward = EpisodeTracker(), chunk.reward.astype(float)
    episodes = tracker.advance(decoded(chunk, 0))
    expected = [(0, 3, reward[:3, 0].sum()), (1, 5, reward[:5, 1].sum()), (0, 4, reward[3:, 0].sum())]
    assert [(episode.lane, episode.steps) for episode in episodes] == [
        (lane, steps) for lane, steps, _ in expected
    ]
    np.testing.assert_allclose([episode.score for episode in episodes], [score for *_, score in expected])
    assert {episode.slot for episode in episodes} == {4}
    assert (tracker.count, tracker.best) == (3, max(episode.score for episode in episodes))
    assert tracker.mean == pytest.approx(np.mean([episode.score for episode in episodes]))


@pytest.mark.parametrize("cut", range(1, T))
def test_episodes_continue_over_chunks(chunk: Chunk, cut: int) -> None:
    """Two chunks report the same episodes as one."""
    whole = EpisodeTracker().advance(decoded(chunk, 0))
    tracker = EpisodeTracker()
    episodes = tracker.advance(decoded(rows(chunk, 0, cut), 0))
    episodes += tracker.advance(decoded(rows(chunk, cut, T), cut * B))
    assert episodes == whole


def test_an_episode_with_a_missing_chunk_is_not_reported(chunk: Chunk) -> None:
    """After a missing chunk each lane counts from its next end."""
    tracker = EpisodeTracker()
    tracker.advance(decoded(chunk, 0))
    episodes = tracker.advance(decoded(chunk, 2 * T * B))
    assert [(episode.lane, episode.steps) for episode in episodes] == [(0, 4)]


def test_reset_lanes_begin_new_episodes(chunk: Chunk) -> None:
    """This is so in another incarnation and in the same one, at any offset."""
    tracker, alone = EpisodeTracker(), EpisodeTracker().advance(decoded(chunk, 0))
    tracker.advance(decoded(rows(chunk, 0, 2), 0))
    assert tracker.advance(decoded(chunk, 990, incarnation=1, fresh=True)) == alone
    tracker.advance(decoded(rows(chunk, 0, 2), 0))
    assert tracker.advance(decoded(chunk, 0, incarnation=1, fresh=True)) == alone


def test_an_incarnation_whose_first_chunk_was_dropped_is_in_the_middle_of_its_episodes(chunk: Chunk) -> None:
    """Each of its lanes counts from its next end."""
    for tracker in (EpisodeTracker(), EpisodeTracker()):
        episodes = tracker.advance(decoded(chunk, T * B, incarnation=1, fresh=False))
        assert [(episode.lane, episode.steps) for episode in episodes] == [(0, 4)]
        tracker.advance(decoded(rows(chunk, 0, 2), 0))


def test_two_incarnations_of_a_slot_in_one_batch_report_their_own_episodes(
    make_chunk: Callable[..., Chunk],
) -> None:
    """The earlier incarnation is first in the batch, although its offset is larger."""
    earlier = decoded(make_chunk(4, 1, SPACES, 0, terminated=[(1, 0)]), 8, incarnation=0)
    before = decoded(make_chunk(8, 1, SPACES, 1), 0, incarnation=0)
    later = decoded(make_chunk(6, 1, SPACES, 2, terminated=[(5, 0)]), 0, incarnation=1)
    tracker = EpisodeTracker()
    tracker.advance(before)
    episodes = [
        episode
        for chunk in sorted([later, earlier], key=lambda one: one.order)
        for episode in tracker.advance(chunk)
    ]
    assert [episode.steps for episode in episodes] == [10, 6]


def test_slots_do_not_mix(chunk: Chunk) -> None:
    """Each slot has its own lanes."""
    tracker = EpisodeTracker()
    tracker.advance(decoded(rows(chunk, 0, 2), 0, slot=0))
    episodes = tracker.advance(decoded(chunk, 0, slot=1))
    alone = EpisodeTracker().advance(decoded(chunk, 0, slot=1))
    assert episodes == alone
    assert all(isinstance(episode, Episode) and episode.slot == 1 for episode in episodes)


def test_only_the_last_hundred_count_for_the_mean(chunk: Chunk) -> None:
    """Older episodes do not count; the best score stays."""
    tracker = EpisodeTracker()
    first = tracker.advance(decoded(dataclasses.replace(chunk, reward=chunk.reward + 100), 0))
    for number in range(1, 41):
        tracker.advance(decoded(chunk, number * T * B))
    assert tracker.count == 123
    assert len(tracker.recent) == 100
    assert tracker.mean is not None
    assert tracker.mean < 50 < tracker.best == max(episode.score for episode in first)


def test_rooms_are_counted_over_all_lanes_and_chunks(chunk: Chunk) -> None:
    """0 stands for no room; a restart keeps the rooms, and earlier checkpoints have none."""
    tracker = EpisodeTracker()
    for offset, rooms in ((0, [0, 2]), (T * B, [2, 5, 24])):
        room = np.resize(np.array(rooms, np.uint8), (T, B))
        tracker.advance(decoded(dataclasses.replace(chunk, room=room), offset))
    assert tracker.rooms == {2, 5, 24}
    restored, older = EpisodeTracker(), tracker.state()
    restored.load(tracker.state())
    assert restored.rooms == {2, 5, 24}
    del older["rooms"]
    restored = EpisodeTracker()
    restored.load(older)
    assert not restored.rooms


def test_state_survives_a_restart(chunk: Chunk) -> None:
    """A restored tracker has the same figures, also before the first end."""
    for tracker in (EpisodeTracker(), EpisodeTracker()):
        other = EpisodeTracker()
        other.load(tracker.state())
        assert (other.count, other.best, other.mean) == (tracker.count, tracker.best, tracker.mean)
    tracker.advance(decoded(chunk, 0))
    other.load(tracker.state())
    assert other.state() == tracker.state()
    assert other.count == 3
