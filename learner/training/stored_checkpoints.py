"""The checkpoints in a directory: the facts in their metadata, why each is kept, and which are deleted."""

from __future__ import annotations

import functools
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import safetensors

from learner.training.checkpoint import CheckpointError
from learner.training.episodes import WINDOW
from learner.training.retention import CheckpointFacts, Reason, reasons_to_keep

_PIN = ".keep"  # suffix of an empty file beside a checkpoint that is never deleted


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint file; without a reason and a pin, it is deleted after the next save."""

    path: Path
    facts: CheckpointFacts
    reasons: list[Reason]

    @property
    def pinned(self) -> bool:
        """Whether a user has pinned it."""
        return self.path.with_suffix(_PIN).exists()


def stored_checkpoints(directory: Path) -> tuple[list[StoredCheckpoint], list[Path]]:
    """Return the checkpoints in order of their versions, and the files whose metadata cannot be read."""
    known, unreadable = [], []
    for path in sorted(directory.glob("*.safetensors")):
        try:
            known.append((path, _facts(path, path.stat().st_mtime)))
        except CheckpointError:
            unreadable.append(path)
    reasons = reasons_to_keep([facts for _, facts in known])
    stored = [StoredCheckpoint(path, facts, why) for (path, facts), why in zip(known, reasons, strict=True)]
    return stored, unreadable


def delete_unneeded(directory: Path) -> None:
    """Delete the checkpoints that are neither needed nor pinned. A file that cannot be read stays.

    Raises:
        OSError: the directory is not writable.
    """
    for checkpoint in stored_checkpoints(directory)[0]:
        if not checkpoint.reasons and not checkpoint.pinned:
            checkpoint.path.unlink()


def pin(path: Path) -> Path:
    """Keep a checkpoint until the file that this returns is deleted.

    Raises:
        CheckpointError: there is no such checkpoint.
        OSError: the directory is not writable.
    """
    mark = path.with_suffix(_PIN)
    mark.touch()
    if not path.exists():  # checked after the mark is set: a learner may delete the file at any time
        mark.unlink()
        raise CheckpointError(f"expected a checkpoint, got no file {path}: name an update that `list` shows")
    return mark


@functools.lru_cache(maxsize=1024)
def _facts(path: Path, modified_at: float) -> CheckpointFacts:
    """Read the facts from the metadata of a file, and none of its tensors; a changed file is read again.

    Checkpoints of earlier releases do not have the time of the save; the file's time replaces it.

    Raises:
        CheckpointError: the metadata cannot be read.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})["json"])
        recent = meta["episodes"]["recent"]
        mean_return = statistics.fmean(recent) if len(recent) == WINDOW else None
        return CheckpointFacts(
            max(0, int(meta["version"])), float(meta.get("saved_at", modified_at)), mean_return
        )
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"expected a checkpoint, got {path} that cannot be read ({error})") from None
