"""Stacks rebuilt from images that were sent once, and chunks joined to batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from common.protocol.chunk import Chunk
from common.spaces import Spaces
from learner.training.batch import Batch, join, make_batch, observations, restack

T, B, S = 7, 3, 4
IMAGES, VECTORS = Spaces((84, 84), S, 5), Spaces((2,), 1, 5)
TORQUES = Spaces((2,), 1, 4, ((-2.0, 2.0),) * 4)
LAG = np.array([0, 2, 1])
CPU = torch.device("cpu")
ENDS = {
    "none": [],
    "start": [(0, 0)],
    "middle": [(3, 1)],
    "end": [(T - 1, 2)],
    "last but one": [(T - 2, 0)],
    "twice within a stack": [(2, 1), (4, 1)],
    "twice in a row": [(2, 1), (3, 1), (3, 2)],
    "many": [(0, 0), (1, 0), (2, 1), (5, 1), (6, 1), (6, 2)],
}


def frame_stacks(observation: np.ndarray, done: np.ndarray) -> np.ndarray:
    """Stacks [T + 1, S, B, ...], one lane at a time, from a deque that is emptied at each end."""
    stacks = np.zeros((len(done) + 1, S, *observation.shape[1:]), observation.dtype)
    for lane in range(done.shape[1]):
        deque = list(observation[:S, lane])
        for t in range(len(done) + 1):
            stacks[t, :, lane] = deque
            if t < len(done):
                older = [np.zeros_like(deque[0])] * (S - 1) if done[t, lane] else deque[1:]
                deque = [*older, observation[S + t, lane]]
    return stacks


def batch_of(chunk: Chunk, spaces: Spaces) -> Batch:
    """A batch whose observations have mean 1 and standard deviation 2."""
    statistics = torch.full(spaces.observation, 1.0), torch.full(spaces.observation, 2.0)
    return make_batch(chunk, LAG, chunk.reward * 2, chunk.bonus, spaces, statistics, CPU)


@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
def test_stacks_are_those_the_policy_saw(ends: list[tuple[int, int]]) -> None:
    """Images from before an end are zero; the chunk's history completes the first stacks."""
    rng = np.random.default_rng(0)
    observation = rng.integers(1, 256, (S + T, B, 2, 3), np.uint8)
    done = np.zeros((T, B), np.bool_)
    for place in ends:
        done[place] = True
    stack = restack(torch.from_numpy(observation), done, S)
    np.testing.assert_array_equal(stack.movedim(-1, 1).numpy(), frame_stacks(observation, done))


def test_a_history_with_black_images_stays_black(make_chunk: Callable[..., Chunk]) -> None:
    """An episode that began just before the chunk has zeros in its history rows, which stay."""
    chunk = make_chunk(T, B, IMAGES, 1)
    chunk.observation[:2, 1] = 0
    stack = batch_of(chunk, IMAGES).stack
    assert not stack[0, 1, ..., :2].any()
    np.testing.assert_array_equal(stack[0, 1, ..., 2:].movedim(-1, 0), chunk.observation[2:4, 1])


def test_joining_equals_one_big_chunk(make_chunk: Callable[..., Chunk]) -> None:
    """Lanes are side by side; final observations are ordered by time, then lane."""
    whole = make_chunk(T, 2 * B, IMAGES, 1, [(2, 0)], [(0, 5), (1, 0), (1, 4), (4, 3), (6, 0), (6, 5)])
    finals = np.argwhere(whole.truncated)
    parts = []
    for start in (0, B):
        lanes = slice(start, start + B)
        cut = {
            f.name: getattr(whole, f.name)[:, lanes]
            for f in dataclasses.fields(Chunk)
            if f.name != "final_observation"
        }
        mine = (finals[:, 1] >= start) & (finals[:, 1] < start + B)
        parts.append(Chunk(**cut, final_observation=whole.final_observation[mine]))
    joined = join(parts)
    for field in dataclasses.fields(Chunk):
        np.testing.assert_array_equal(
            getattr(joined, field.name), getattr(whole, field.name), err_msg=field.name
        )


def test_the_stack_of_a_truncated_episode_ends_with_its_final_image(make_chunk: Callable[..., Chunk]) -> None:
    """It has the three newest images of s_t, then the final one; stacks are in the order of `truncated`."""
    places = [(0, 2), (3, 0), (3, 1)]
    chunk = make_chunk(T, B, IMAGES, 2, truncated=places)
    batch = batch_of(chunk, IMAGES)
    slow = frame_stacks(chunk.observation, chunk.done)
    assert batch.truncated.nonzero().tolist() == [list(place) for place in places]
    for k, (t, lane) in enumerate(places):
        expected = [*slow[t, 1:, lane], chunk.final_observation[k]]
        np.testing.assert_array_equal(observations(batch.final_stack)[k], np.stack(expected))


def test_the_next_observation_is_the_newest_row_after_the_step(make_chunk: Callable[..., Chunk]) -> None:
    """At an end it is the first of the next episode, as for the bonus; it is raw for images and vectors."""
    for spaces in (IMAGES, VECTORS):
        chunk = make_chunk(T, B, spaces, 3, [(1, 1)], [(2, 0)])
        np.testing.assert_array_equal(
            batch_of(chunk, spaces).next_observation, chunk.observation[spaces.stack :]
        )


def test_vectors_are_whitened_for_the_policy(make_chunk: Callable[..., Chunk]) -> None:
    """Current and final observations are (x - mean) / std, clipped at 10."""
    chunk = make_chunk(T, B, VECTORS, 4, truncated=[(2, 0)])
    chunk.observation[1, 1] = 1_000.0
    batch = batch_of(chunk, VECTORS)
    assert batch.stack.shape == (T + 1, B, 2, 1)
    for stack, observation in (
        (batch.stack, chunk.observation),
        (batch.final_stack, chunk.final_observation),
    ):
        white = np.clip((observation.astype(np.float32) - 1) / 2, -10, 10)
        np.testing.assert_allclose(stack[..., 0], white, rtol=1e-6)


def test_rewards_bonuses_and_lags_are_the_given_ones(make_chunk: Callable[..., Chunk]) -> None:
    chunk = make_chunk(T, B, VECTORS, 5)
    batch = batch_of(chunk, VECTORS)
    np.testing.assert_array_equal(batch.reward, chunk.reward * 2)
    np.testing.assert_array_equal(batch.intrinsic, chunk.bonus)
    np.testing.assert_array_equal(batch.log_prob, chunk.log_prob)
    assert batch.lag.dtype is torch.int64
    assert batch.lag.tolist() == LAG.tolist()


def test_actions_keep_their_shape_and_are_numbers_or_vectors(make_chunk: Callable[..., Chunk]) -> None:
    for spaces, kind in ((VECTORS, torch.int64), (TORQUES, torch.float32)):
        chunk = make_chunk(T, B, spaces, 6)
        action = batch_of(chunk, spaces).action
        assert (action.shape, action.dtype) == ((T, B, *spaces.action), kind)
        np.testing.assert_array_equal(action, chunk.action)


def test_chunks_of_continuous_actions_are_joined_lane_by_lane(make_chunk: Callable[..., Chunk]) -> None:
    parts = [make_chunk(T, B, TORQUES, seed) for seed in (7, 8)]
    joined = join(parts)
    for place, part in enumerate(parts):
        np.testing.assert_array_equal(joined.action[:, place * B : (place + 1) * B], part.action)
