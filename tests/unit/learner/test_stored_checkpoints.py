"""The checkpoint files of a run: what is deleted after a save, and the commands list, verify and keep."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from common.config import Config
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_INTERNAL
from learner import checkpoints as command
from learner.training import checkpoint
from learner.training.checkpoint import Checkpoint
from learner.training.checkpoint_writer import CheckpointWriter
from learner.training.stored_checkpoints import delete_unneeded, pin, stored_checkpoints

HOUR = 3_600.0
START = 1_750_000_000.0 // 86_400 * 86_400 + 6 * HOUR  # a morning


def saved(version: int, score: float, episodes: int = 100) -> Checkpoint:
    meta = {"version": version, "episodes": {"recent": [score] * episodes}}
    return Checkpoint({"x": torch.full((3,), float(version))}, meta)


def write(
    directory: Path, monkeypatch: pytest.MonkeyPatch, rows: list[tuple[int, float, float]]
) -> list[Path]:
    """Save checkpoints of (version, hour, return)."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for version, hour, score in rows:
        monkeypatch.setattr(time, "time", lambda hour=hour: START + hour * HOUR)
        paths.append(checkpoint.save(directory, version, saved(version, score)))
    monkeypatch.undo()
    return paths


ROWS = [
    (1, 0.0, 9.0),
    (2, 0.1, 1.0),
    (3, 0.2, 1.0),
    (4, 1.0, 1.0),
    (5, 1.1, 1.0),
    (6, 1.2, 1.0),
    (7, 1.3, 1.0),
]


def versions(directory: Path) -> list[int]:
    return [int(path.stem) for path in sorted(directory.glob("*.safetensors"))]


def test_the_writer_deletes_what_no_rule_keeps(tmp_path: Path) -> None:
    """All saves are in one hour and the first has the best return; the newest one is resumed."""
    writer = CheckpointWriter(tmp_path)
    for version, score in ((1, 9.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 1.0)):
        writer.save(saved(version, score))
    assert writer.failures == 0
    assert versions(tmp_path) == [1, 3, 4, 5]
    newest = checkpoint.newest(tmp_path)
    assert newest is not None and newest.meta["version"] == 5


def test_an_hour_keeps_its_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, monkeypatch, ROWS)
    delete_unneeded(tmp_path)
    assert versions(tmp_path) == [1, 3, 5, 6, 7]


def test_a_return_counts_once_a_hundred_episodes_have_ended(tmp_path: Path) -> None:
    for version, score, episodes in ((1, 9.0, 99), (2, 5.0, 100), (3, 1.0, 100)):
        checkpoint.save(tmp_path, version, saved(version, score, episodes))
    stored, _ = stored_checkpoints(tmp_path)
    assert [one.facts.mean_return for one in stored] == [None, 5.0, 1.0]
    assert [one.facts.version for one in stored if "best" in one.reasons] == [2]


def test_a_pinned_checkpoint_is_never_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the pin is removed, it is deleted."""
    _, second, *_ = write(tmp_path, monkeypatch, ROWS)
    mark = pin(second)
    delete_unneeded(tmp_path)
    assert versions(tmp_path) == [1, 2, 3, 5, 6, 7]
    mark.unlink()
    delete_unneeded(tmp_path)
    assert versions(tmp_path) == [1, 3, 5, 6, 7]


def test_a_checkpoint_of_an_earlier_release_has_the_time_of_its_file(tmp_path: Path) -> None:
    """Format 1 and the first files of format 2 have no time in their metadata."""
    for number in (1, 2):
        text = json.dumps({"format": number, "version": number, "episodes": {"recent": [2.0] * 100}})
        path = checkpoint.file_of(tmp_path, number)
        safetensors.torch.save_file({"x": torch.ones(1)}, path, {"json": text, "digest": ""})
        os.utime(path, (START, START + number))
    stored, unreadable = stored_checkpoints(tmp_path)
    facts = [(one.facts.version, one.facts.saved_at, one.facts.mean_return) for one in stored]
    assert (facts, unreadable) == ([(1, START + 1, 2.0), (2, START + 2, 2.0)], [])


def test_a_file_whose_metadata_cannot_be_read_stays_and_takes_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write(tmp_path, monkeypatch, ROWS)
    for path in (paths[1], paths[6]):
        path.write_bytes(path.read_bytes()[:20])
    delete_unneeded(tmp_path)
    assert versions(tmp_path) == [1, 2, 3, 4, 5, 6, 7]
    stored, unreadable = stored_checkpoints(tmp_path)
    assert unreadable == [paths[1], paths[6]]
    assert [one.facts.version for one in stored if "newest" in one.reasons] == [4, 5, 6]


def test_a_checkpoint_that_is_written_again_is_read_again(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, saved(1, 1.0))
    os.utime(path, (START, START))
    assert stored_checkpoints(tmp_path)[0][0].facts.mean_return == 1.0
    checkpoint.save(tmp_path, 1, saved(1, 2.0))
    assert stored_checkpoints(tmp_path)[0][0].facts.mean_return == 2.0


def a_run(directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    config = Config()
    paths = write(directory / "checkpoints", monkeypatch, ROWS)
    (directory / "config.json").write_text(config.to_json())
    return paths


def test_list_shows_each_checkpoint_and_why_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = a_run(tmp_path, monkeypatch)
    pin(paths[1])
    assert command.main(["list", str(tmp_path)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert [len(row.split("  ")) > 3 for row in (head, *rows)] == [True] * 8
    assert [row.rpartition("  ")[2] for row in rows] == [
        "best",
        "pinned",
        "hourly",
        "deleted at the next save",
        "newest",
        "newest",
        "newest, hourly, daily",
    ]
    steps = 7 * Config().rollout.batch_steps
    day = time.strftime("%Y-%m-%d", time.gmtime(START))
    assert rows[-1].split()[:6] == ["7", f"{steps:,}", day, "07:18:00", "1.0", f"{paths[6].stat().st_size:,}"]


def test_verify_names_the_damaged_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = a_run(tmp_path, monkeypatch)
    assert command.main(["verify", str(tmp_path)]) == 0
    data = bytearray(paths[3].read_bytes())
    data[-1] ^= 1
    paths[3].write_bytes(data)
    capsys.readouterr()
    assert command.main(["verify", str(tmp_path)]) == EXIT_INTERNAL
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[1].rstrip(":") for row in rows] == ["intact"] * 3 + ["damaged"] + ["intact"] * 3


def test_keep_pins_one_checkpoint_and_refuses_one_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_run(tmp_path, monkeypatch)
    assert command.main(["keep", str(tmp_path), "2"]) == 0
    delete_unneeded(tmp_path / "checkpoints")
    assert 2 in versions(tmp_path / "checkpoints")
    assert command.main(["keep", str(tmp_path), "4"]) == EXIT_CONFIGURATION
    assert "name an update that `list` shows" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.keep")] == ["000000002.keep"]


@pytest.mark.parametrize("words", [("list",), ("verify",), ("keep", "1")])
def test_a_directory_without_checkpoints_is_refused(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = words
    assert command.main([name, str(tmp_path), *rest]) == EXIT_CONFIGURATION
    assert len(capsys.readouterr().err.splitlines()) == 1
