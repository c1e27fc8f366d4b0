"""The rows of the minibatches, and those that the predictor learns from."""

from __future__ import annotations

from dataclasses import replace

import torch

from learner.training.minibatches import draw_minibatches
from tests.support.ppo_batches import CONFIG, CPU, E, T, tuned


def test_shuffled_minibatches_cover_every_row_once_per_epoch() -> None:
    """Each epoch has its own order; the predictor's rows are those that the epoch keeps."""
    kept = torch.rand(2, T * E) < 0.5
    minibatches = draw_minibatches(kept, T, E, CONFIG.ppo, torch.Generator(), CPU)
    assert [len(rows) for rows, _ in minibatches] == [T * E / 3] * 6
    epochs = [torch.cat([rows for rows, _ in part]) for part in (minibatches[:3], minibatches[3:])]
    assert [sorted(rows.tolist()) for rows in epochs] == [list(range(T * E))] * 2
    assert not torch.equal(*epochs)
    for number, (rows, chosen) in enumerate(minibatches):
        assert chosen.tolist() == [row for row in rows.tolist() if kept[number // 3, row]]


def test_steps_that_the_number_of_minibatches_does_not_divide_leave_a_smaller_one() -> None:
    """As those of a single chunk; each epoch covers every row once."""
    kept = torch.ones(2, 7, dtype=torch.bool)
    for count, sizes in ((2, [3, 3, 1]), (3, [2, 2, 2, 1]), (20, [1] * 7)):
        ppo = replace(CONFIG.ppo, minibatches=count)
        minibatches = draw_minibatches(kept, 7, 1, ppo, torch.Generator(), CPU)
        assert [len(rows) for rows, _ in minibatches] == sizes * 2
        assert all(torch.equal(rows, chosen) for rows, chosen in minibatches)
        epochs = [minibatches[: len(sizes)], minibatches[len(sizes) :]]
        assert [sorted(torch.cat([r for r, _ in part]).tolist()) for part in epochs] == [list(range(7))] * 2


def test_unshuffled_minibatches_are_blocks_of_whole_lanes() -> None:
    """Each minibatch has all T steps of neighbouring lanes, as in the RND code."""
    seen = []
    kept = torch.zeros(1, T * E, dtype=torch.bool)
    ppo = tuned(shuffle=False, epochs=1).ppo
    for rows, chosen in draw_minibatches(kept, T, E, ppo, torch.Generator(), CPU):
        lanes = (rows % E).unique().tolist()
        assert set(rows.tolist()) == {t * E + lane for t in range(T) for lane in lanes}
        assert len(chosen) == 0
        seen.append(lanes)
    assert seen == [[0, 1], [2, 3], [4, 5]]
