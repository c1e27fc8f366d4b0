"""Faults of the disk: a full disk and damaged checkpoints.

Each scenario takes the number and the length of its faults, so that it has a short and a long form. It
compares the ledger with independent counts and returns figures. A figure that depends on the machine has a
bound beside it, NAME_bound, which only the long form checks.
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from learner.training import checkpoint
from learner.training.checkpoint import CheckpointError
from tests.support import small_disk
from tests.support.fault_harness import (
    START_SECONDS,
    FaultHarness,
    Figures,
    stop,
)
from tests.support.processes import Command, wait_until


@contextlib.contextmanager
def _no_room(learner: Command, run_dir: Path) -> Iterator[None]:
    """Fill the disk of the run directory for the block."""
    filler = run_dir / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def _no_longer_files(learner: Command, run_dir: Path) -> Iterator[None]:
    """Limit the size of files for the block, where users may not mount a disk of their own."""
    process, unlimited = psutil.Process(learner.pid), resource.RLIM_INFINITY
    process.rlimit(resource.RLIMIT_FSIZE, (8_192, unlimited))
    try:
        yield
    finally:
        process.rlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))


def full_disk(directory: Path, seconds: float) -> Figures:
    """B10: the disk is full. Training continues, old checkpoints stay, and a metric counts the failures.

    A new checkpoint is saved as soon as there is room again.
    """
    harness = FaultHarness(directory)
    real = small_disk.possible(directory / "mount")
    full = _no_room if real else _no_longer_files
    harness.run.module = "tests.support.small_disk" if real else harness.run.module

    def saved() -> list[str]:
        return sorted(path.name for path in checkpoints.iterdir()) if checkpoints.exists() else []

    with harness.learner() as learner, harness.actor(procs=2) as actors:
        root = Path(f"/proc/{learner.pid}/root" if real else "/")
        checkpoints = root / harness.run.path.relative_to("/") / "checkpoints"
        harness.wait_updates(5)
        wait_until(lambda: len(saved()) >= 1, "a checkpoint", START_SECONDS)
        failed = "outrider_checkpoint_failures_total"
        with full(learner, checkpoints.parent):
            if not real:  # the file of the witness would reach the limit, too
                harness.trained.rename(directory / "before.jsonl")
                harness.trained.touch()
            old = [name for name in saved() if not name.endswith(".tmp")]
            wait_until(lambda: harness.run.metric(failed, learner) >= 1, "a failed checkpoint", START_SECONDS)
            time.sleep(seconds)
            during = harness.wait_updates(1)
            failures = harness.run.metric(failed, learner)
            left = [name for name in saved() if not name.endswith(".tmp")]
            assert left == old, "an old checkpoint is gone"
            assert all(checkpoint.load(checkpoints / name) for name in left)
        wait_until(lambda: saved()[-1] > old[-1], "a new checkpoint", START_SECONDS)
        assert not [name for name in saved() if name.endswith(".tmp") and name < saved()[-1]]
        stop(actors)
        stop(learner)
    return {
        "disk": "a file system of its own" if real else "a limit on file sizes",
        "checkpoint_failures": failures,
        "update_seconds_while_full": during,
        "imbalances_exported": sorted(harness.sampler.imbalances),
    }


def damaged_checkpoints(directory: Path) -> Figures:
    """B10: a bit flips in, or a cut is at, every 1/64 of the newest checkpoint: the one before is used."""
    harness = FaultHarness(directory)
    with harness.learner() as learner, harness.actor(procs=2) as actors:
        checkpoints = harness.run.path / "checkpoints"
        wait_until(lambda: any(checkpoints.glob("*.safetensors")), "a checkpoint", START_SECONDS)
        harness.wait_updates(5)
        stop(actors)
        stop(learner)
    *_, before, last = sorted(checkpoints.glob("*.safetensors"))
    sound, size = last.read_bytes(), last.stat().st_size
    expected = checkpoint.load(before).meta["version"]
    tried = 0
    for part in range(64):
        at = (size * part) // 64 + size // 128
        flipped = bytearray(sound)
        flipped[at] ^= 1 << (part % 8)
        for damaged in (bytes(flipped), sound[: (size * part) // 64]):
            last.write_bytes(damaged)
            found = checkpoint.newest(checkpoints)
            assert found is not None and found.meta["version"] == expected, (part, len(damaged))
            tried += 1
    before.write_bytes(sound[: size // 2])
    for other in checkpoints.glob("*.safetensors"):
        other.write_bytes(other.read_bytes()[: size // 2])
    with contextlib.suppress(CheckpointError):
        checkpoint.newest(checkpoints)
        raise AssertionError("expected a refusal when every checkpoint is damaged")
    return {"damaged": tried, "fell_back": tried}
