"""Faults of the disk: a full disk and damaged checkpoints.

The arguments of a scenario are the number and the length of its faults, so it has a short and a long form. It
compares the ledger with independent counts and returns figures. For a figure NAME that depends on the machine
it also returns NAME_bound, which only the long form checks.
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
def _full_disk(learner: Command, run_dir: Path) -> Iterator[None]:
    """Fill the disk of the run directory during the block."""
    filler = run_dir / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def _limited_files(learner: Command, run_dir: Path) -> Iterator[None]:
    """Limit the size of files during the block; for systems where users may not mount a disk."""
    process, unlimited = psutil.Process(learner.pid), resource.RLIM_INFINITY
    process.rlimit(resource.RLIMIT_FSIZE, (8_192, unlimited))
    try:
        yield
    finally:
        process.rlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))


def full_disk(directory: Path, seconds: float) -> Figures:
    """B10: the disk is full. Training continues, old checkpoints remain, and a metric counts the failures.

    The learner saves a new checkpoint as soon as the disk has free space again.
    """
    harness = FaultHarness(directory)
    real = small_disk.possible(directory / "mount")
    full = _full_disk if real else _limited_files
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
            if not real:  # the file of the witness would reach the limit as well
                harness.trained.rename(directory / "before.jsonl")
                harness.trained.touch()
            old = [name for name in saved() if not name.endswith(".tmp")]
            wait_until(lambda: harness.run.metric(failed, learner) >= 1, "a failed checkpoint", START_SECONDS)
            time.sleep(seconds)
            during = harness.wait_updates(1)
            failures = harness.run.metric(failed, learner)
            kept = [name for name in saved() if not name.endswith(".tmp")]
            assert kept == old, "expected the old checkpoints, got others"
            assert all(checkpoint.load(checkpoints / name) for name in kept)
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
    """B10: the newest checkpoint has a flipped bit, or a cut, at every 1/64: the previous one is used."""
    harness = FaultHarness(directory)
    with harness.learner() as learner, harness.actor(procs=2) as actors:
        checkpoints = harness.run.path / "checkpoints"
        wait_until(lambda: any(checkpoints.glob("*.safetensors")), "a checkpoint", START_SECONDS)
        harness.wait_updates(5)
        stop(actors)
        stop(learner)
    *_, previous, last = sorted(checkpoints.glob("*.safetensors"))
    intact, size = last.read_bytes(), last.stat().st_size
    expected = checkpoint.load(previous).meta["version"]
    tried = 0
    for part in range(64):
        at = (size * part) // 64 + size // 128
        flipped = bytearray(intact)
        flipped[at] ^= 1 << (part % 8)
        for damaged in (bytes(flipped), intact[: (size * part) // 64]):
            last.write_bytes(damaged)
            found = checkpoint.newest(checkpoints)
            assert found is not None and found.meta["version"] == expected, (part, len(damaged))
            tried += 1
    previous.write_bytes(intact[: size // 2])
    for other in checkpoints.glob("*.safetensors"):
        other.write_bytes(other.read_bytes()[: size // 2])
    with contextlib.suppress(CheckpointError):
        checkpoint.newest(checkpoints)
        raise AssertionError("expected a refusal when every checkpoint is damaged")
    return {"damaged": tried, "previous_used": tried}
