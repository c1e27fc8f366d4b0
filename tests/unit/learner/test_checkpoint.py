"""Checkpoints are intact or refused, writes are atomic, and a run directory has one learner."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from common import files
from learner.training import checkpoint
from learner.training.checkpoint import Checkpoint, CheckpointError, RunDirectory
from learner.training.optimiser_state import optimiser_tensors


def sample(version: int = 0) -> Checkpoint:
    """Tensors of several types and layouts, and nested JSON."""
    generator = torch.Generator().manual_seed(version)
    conv = torch.randn(5, 3, 2, 2, generator=generator).to(memory_format=torch.channels_last)
    tensors = {
        "model.policy.conv": conv,
        "model.policy.transposed": torch.randn(5, 3, generator=generator).t(),
        "model.predictor.half": torch.randn(7, generator=generator).bfloat16(),
        "normaliser.count": torch.tensor(3.5, dtype=torch.float64),
        "normaliser.empty": torch.zeros(0, 3),
        "generator": generator.get_state(),
        "model.flag": torch.tensor([True, False]),
    }
    return Checkpoint(
        tensors, {"version": version, "accounting": '{"a": 1}', "episodes": {"recent": [1.5], "best": None}}
    )


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether names, types, values and JSON are equal."""
    return (
        one.meta == other.meta
        and one.tensors.keys() == other.tensors.keys()
        and all(
            one.tensors[k].dtype is v.dtype and torch.equal(one.tensors[k], v)
            for k, v in other.tensors.items()
        )
    )


def test_a_loaded_checkpoint_equals_the_saved_one(tmp_path: Path) -> None:
    """The memory layout does not matter, and no temporary file remains."""
    path = checkpoint.save(tmp_path, 7, sample())
    assert same(checkpoint.load(path), sample())
    assert list(tmp_path.iterdir()) == [path]
    assert checkpoint.load(path).part("model.policy").keys() == {"conv", "transposed"}


def test_a_loaded_optimiser_state_equals_the_saved_one(tmp_path: Path) -> None:
    """It has moments of channels-last weights, and the step count."""
    layer = torch.nn.Conv2d(3, 5, 2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(layer.parameters(), fused=True)
    layer(torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))).sum().backward()
    optimiser.step()
    saved = Checkpoint(optimiser_tensors(optimiser), {})
    assert same(checkpoint.load(checkpoint.save(tmp_path, 1, saved)), saved)


def test_any_damage_is_detected(tmp_path: Path) -> None:
    """A flipped bit, a cut at any sixteenth or an added byte raises CheckpointError."""
    path = checkpoint.save(tmp_path, 1, sample())
    intact = path.read_bytes()
    rng = np.random.default_rng(0)
    positions = {
        *range(0, 200),
        *range(len(intact) - 60, len(intact)),
        *rng.integers(0, len(intact), 600).tolist(),
    }
    damaged = []
    for at in sorted(positions):
        flipped = bytearray(intact)
        flipped[at] ^= 1 << int(rng.integers(8))
        damaged.append((f"flip {at}", bytes(flipped)))
    damaged += [(f"cut {i}/16", intact[: i * len(intact) // 16]) for i in range(16)]
    damaged += [("one byte less", intact[:-1]), ("one byte more", intact + b"\0")]
    for what, data in damaged:
        path.write_bytes(data)
        with pytest.raises(CheckpointError) as caught:
            pytest.fail(f"{what}: read as {checkpoint.load(path).meta}")
        assert "\n" not in str(caught.value), what


def test_the_newest_intact_one_is_found(tmp_path: Path) -> None:
    """Damaged checkpoints are skipped. It is an error if all are damaged, but not if there is none."""
    assert checkpoint.newest(tmp_path) is None
    paths = [checkpoint.save(tmp_path, version, sample(version)) for version in (9, 10, 101)]
    for damaged, expected in ((None, 101), (paths[2], 10), (paths[1], 9)):
        if damaged is not None:
            damaged.write_bytes(damaged.read_bytes()[:-3])
        found = checkpoint.newest(tmp_path)
        assert found is not None
        assert found.meta["version"] == expected
    paths[0].write_bytes(b"")
    with pytest.raises(CheckpointError, match="3 damaged"):
        checkpoint.newest(tmp_path)


def test_the_order_of_the_files_is_that_of_the_versions(tmp_path: Path) -> None:
    """It is not that of their text; a temporary file of a crash does not count."""
    (tmp_path / "000000001.safetensors.tmp").write_bytes(b"half")
    for version in (100, 8, 11, 9, 10):
        checkpoint.save(tmp_path, version, sample(version))
    found = [checkpoint.load(path).meta["version"] for path in sorted(tmp_path.glob("*.safetensors"))]
    assert found == [8, 9, 10, 11, 100]


def test_a_part_has_no_tensors_of_a_longer_name(tmp_path: Path) -> None:
    """`policy_old` is no part of `policy`."""
    tensors = {"policy.weight": torch.ones(1), "policy_old.weight": torch.zeros(1)}
    assert Checkpoint(tensors, {}).part("policy") == {"weight": torch.ones(1)}


def test_a_file_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash of the machine leaves the old file or the whole new one."""
    path, calls = tmp_path / "file", list[str]()
    rename = Path.rename

    def record_sync(descriptor: int) -> None:
        calls.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")

    def record_rename(source: Path, target: Path) -> Path:
        calls.append(f"rename {source.name} {target.name}")
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "rename", record_rename)
    files.write_atomically(path, b"new")
    assert calls == ["sync file.tmp", "rename file.tmp file", f"sync {tmp_path.name}"]
    assert path.read_bytes() == b"new"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full after half of the data."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    write = Path.write_bytes

    def fail(target: Path, data: bytes) -> int:
        write(target, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space"):
        files.write_atomically(path, b"new data")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_of_another_format_is_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    path = checkpoint.save(tmp_path, 1, sample())
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="use the version that wrote it"):
        checkpoint.load(path)


def test_a_run_directory_has_one_learner(tmp_path: Path) -> None:
    """A second learner is refused while the first one runs, and accepted after it."""
    with RunDirectory(tmp_path / "deep" / "run", resume=False) as run:
        assert run.checkpoints.is_dir()
        with pytest.raises(CheckpointError, match="another learner"):
            RunDirectory(run.path, resume=True)
    with RunDirectory(run.path, resume=True):
        pass


def test_a_used_directory_needs_resume(tmp_path: Path) -> None:
    """A directory with files is not used by accident."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="--resume"):
        RunDirectory(tmp_path, resume=False)
    with RunDirectory(tmp_path, resume=True):
        pass


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    """The message names the option to change."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="--run-dir"):
        RunDirectory(tmp_path / "file", resume=True)


def test_every_learner_process_has_a_higher_generation(tmp_path: Path) -> None:
    """The number is on the disk before `begin` returns."""
    generations = []
    for _ in range(3):
        with RunDirectory(tmp_path, resume=True) as run:
            generations.append(run.begin(None))
    assert generations == [0, 1, 2]
    assert (tmp_path / "generation").read_text() == "2"
