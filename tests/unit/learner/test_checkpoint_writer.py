"""When checkpoints are due, and what follows from a failed write."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from learner.training import checkpoint, checkpoint_writer
from learner.training.checkpoint import Checkpoint
from learner.training.checkpoint_writer import CheckpointWriter

SAVED = Checkpoint({"x": torch.ones(3)}, {"version": 4, "episodes": {"recent": []}})


class Clock:
    """A clock that moves only if a test changes `now`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now, time=lambda: 5000.0)
        monkeypatch.setattr(checkpoint_writer, "time", clock)


def test_the_first_checkpoint_is_due_at_once(tmp_path: Path) -> None:
    assert CheckpointWriter(tmp_path).due


@pytest.mark.parametrize(
    ("write_seconds", "pause_seconds"), [(0.0, 5.0), (0.1, 5.0), (1.0, 20.0), (2.0, 40.0), (30.0, 60.0)]
)
def test_writing_takes_at_most_a_twentieth_of_the_time_within_bounds(
    write_seconds: float, pause_seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least 5 and at most 60 seconds lie between two checkpoints."""
    clock, writer, save = Clock(monkeypatch), CheckpointWriter(tmp_path), checkpoint.save

    def slow_save(directory: Path, version: int, saved: Checkpoint) -> Path:
        clock.now += write_seconds
        return save(directory, version, saved)

    monkeypatch.setattr(checkpoint, "save", slow_save)
    writer.save(SAVED)
    clock.now += pause_seconds - 0.01
    assert not writer.due
    clock.now += 0.02
    assert writer.due


def test_a_failed_write_is_counted_and_the_next_one_is_due_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    writer = CheckpointWriter(tmp_path / "missing")
    writer.save(SAVED)
    assert (writer.failures, writer.saved_at, writer.due) == (1, None, False)
    (tmp_path / "missing").mkdir()
    clock.now += 60
    writer.save(SAVED)
    assert (writer.failures, writer.saved_at) == (1, 5000.0)
    newest = checkpoint.newest(tmp_path / "missing")
    assert newest is not None and newest.meta["version"] == 4
