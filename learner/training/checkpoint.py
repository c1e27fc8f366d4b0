"""Run directories and checkpoints: atomic, verified, without pickle.

A checkpoint is one safetensors file: tensors, and JSON in its metadata beside a digest over both.
A write goes to a temporary name; then the file is synced and renamed, and its directory is synced. A
damaged checkpoint is skipped, and the one before it is used.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import safetensors
import safetensors.torch
import structlog
import torch

from common.files import write_atomically
from common.model.bundle import under

log = structlog.get_logger()

FORMAT = 2  # format 1, of the releases before protocol 4, can be read


class CheckpointError(Exception):
    """A run directory or checkpoint cannot be used; the message is one sentence for the user."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that a run needs to continue."""

    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return the tensors under `prefix.`, without it."""
        return under(prefix, self.tensors)


def _digest(tensors: Mapping[str, torch.Tensor], text: str) -> str:
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].detach().contiguous()
        sha.update(f"{name}{value.dtype}{list(value.shape)}".encode())
        sha.update(value.view(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return sha.hexdigest()


def file_of(directory: Path, version: int) -> Path:
    """Return the path of a version's checkpoint; the order of the names is that of the versions."""
    return directory / f"{version:09d}.safetensors"


def save(directory: Path, version: int, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint; its metadata also has the present time.

    Raises:
        OSError: the disk is full or broken; earlier checkpoints are untouched.
    """
    text = json.dumps({"format": FORMAT, "saved_at": time.time(), **checkpoint.meta}, sort_keys=True)
    # safetensors refuses tensors whose memory is not in the order of their shape, as channels-last weights.
    tensors = {name: value.detach().contiguous() for name, value in checkpoint.tensors.items()}
    data = safetensors.torch.save(tensors, {"json": text, "digest": _digest(tensors, text)})
    path = file_of(directory, version)
    write_atomically(path, data)
    return path


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        CheckpointError: the file is unreadable, damaged or of another format.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        text = meta["json"]
        if _digest(tensors, text) != meta["digest"]:
            raise CheckpointError(f"expected an intact checkpoint, got {path} with a wrong digest")
        values = json.loads(text)
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"expected a checkpoint, got {path} that cannot be read ({error})") from None
    values.pop("saved_at", None)
    match values.pop("format", None):
        case 1:
            values = _from_format_1(values)
        case other if other != FORMAT:
            raise CheckpointError(
                f"expected checkpoint format 1 or {FORMAT}, got {other!r} in {path}: "
                "use the version that wrote it"
            )
    return Checkpoint(tensors, values)


def _from_format_1(meta: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a format 1 checkpoint with the names of the present format."""
    accounting = json.loads(meta["books"])
    ledger = json.loads(accounting["ledger"])
    verdicts = {"epoch": "old_generation"}
    ledger["verdicts"] = {verdicts.get(name, name): steps for name, steps in ledger["verdicts"].items()}
    for account in ledger["accounts"].values():
        account[2] = [(start, stop, verdicts.get(name, name)) for start, stop, name in account[2]]
    accounting = {"ledger": json.dumps(ledger), "sessions": accounting["seats"]}
    return {name: value for name, value in meta.items() if name != "books"} | {
        "accounting": json.dumps(accounting)
    }


def newest(directory: Path) -> Checkpoint | None:
    """Return the newest intact checkpoint; None if the directory has no checkpoint.

    Raises:
        CheckpointError: there are checkpoints, and every one is damaged.
    """
    paths = sorted(directory.glob("*.safetensors"), reverse=True)
    for path in paths:
        try:
            return load(path)
        except CheckpointError as error:
            log.warning("checkpoint_skipped", reason=str(error))
    if paths:
        raise CheckpointError(
            f"expected an intact checkpoint in {directory}, got {len(paths)} damaged: "
            "restore one or start a new run directory"
        )
    return None


class RunDirectory:
    """The files of one run, locked against a second learner."""

    def __init__(self, path: Path, resume: bool) -> None:
        """Open or make the directory.

        Raises:
            CheckpointError: it cannot be written, is in use, or has files while `resume` is off.
        """
        self.path, self.checkpoints = path, path / "checkpoints"
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not resume and any(path.iterdir()):
                raise CheckpointError(
                    f"expected an empty run directory, got {path} with files: add --resume or name another"
                )
            self.checkpoints.mkdir(exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise CheckpointError(
                f"expected a writable run directory, got {path} ({error.strerror}): choose another --run-dir"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise CheckpointError(
                f"expected a free run directory, got {path} in use by another learner: stop it first"
            ) from None

    def begin(self, config: str | None) -> int:
        """Count this learner process on disk before an actor sees its generation; write a new run's config.

        Returns:
            The generation: the number of earlier learner processes of the run.

        Raises:
            CheckpointError: the disk is full or broken, or the count so far cannot be read.
        """
        file, former = self.path / "generation", self.path / "epoch"
        try:
            if former.exists():  # the name of the file in the releases before protocol 4
                former.rename(file)
            if config is not None:
                write_atomically(self.path / "config.json", config.encode())
            generation = int(file.read_text()) + 1 if file.exists() else 0
            write_atomically(file, str(generation).encode())
        except ValueError:
            raise CheckpointError(
                f"expected a whole number in {file}, got something else: "
                "write the number of times that this run was started"
            ) from None
        except OSError as error:
            raise CheckpointError(
                f"expected to write into {self.path}, got an error ({error.strerror}): make room on the disk"
            ) from None
        return generation

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        os.close(self._lock)
