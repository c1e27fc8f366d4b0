"""The rows of the minibatches, and those that the predictor learns from."""

from __future__ import annotations

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
