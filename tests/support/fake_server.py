"""A server without sockets and threads, for tests of the trainer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from common.config import Config
from common.model.bundle import Bundle
from common.spaces import Spaces
from learner.interface import DecodedChunk, Verdict
from learner.training.checkpoint import Checkpoint
from learner.training.checkpoint_writer import CheckpointWriter
from learner.training.episodes import EpisodeTracker
from learner.training.normaliser import Normaliser
from learner.training.ppo import PPO
from learner.training.trainer import Trainer


class FakeServer:
    """Implements `TrainerServer`: returns `chunks` in order and records the trainer's calls."""

    def __init__(self, chunks: Sequence[DecodedChunk] = ()) -> None:
        self.chunks = deque(chunks)
        self.calls: list[tuple[object, ...]] = []  # name and arguments of each call except `take`
        self.bundles: list[Bundle] = []

    def open_batch(self, version: int) -> None:
        self.calls.append(("open_batch", version))

    def retry_batch(self, chunks: int) -> None:
        self.calls.append(("retry_batch", chunks))

    def take(self, timeout_seconds: float) -> DecodedChunk | None:
        return self.chunks.popleft() if self.chunks else None

    def settle(self, chunks: Sequence[DecodedChunk], verdict: Verdict) -> None:
        self.calls.append(("settle", verdict, [decoded.order for decoded in chunks]))

    def record_violations(self, chunks: Sequence[DecodedChunk], violation: str) -> None:
        self.calls.append(("record_violations", [decoded.order for decoded in chunks]))

    def publish(self, bundle: Bundle) -> None:
        self.bundles.append(bundle)
        self.calls.append(("publish", bundle.version))

    def accounting(self) -> str:
        self.calls.append(("accounting",))
        return "the accounts"


class NoCheckpoints(CheckpointWriter):
    """A checkpoint writer that is never due."""

    @property
    def due(self) -> bool:
        return False


def make_trainer(
    config: Config,
    spaces: Spaces,
    server: FakeServer,
    directory: Path,
    *,
    version: int | None = None,
    device: torch.device | None = None,
    checkpoints: CheckpointWriter | None = None,
    stop: threading.Event | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> Trainer:
    """Make a trainer at the beginning of a run, or one restored at `version`."""
    device = device or torch.device("cpu")
    trainer = Trainer(
        config,
        spaces,
        device,
        PPO(config, spaces, device),
        server,
        checkpoints or NoCheckpoints(directory),
        directory / "failed",
        0,
        stop or threading.Event(),
        on_wait,
    )
    if version is not None:
        state = {f"normaliser.{name}": x for name, x in Normaliser(spaces, config).state().items()}
        trainer.restore(Checkpoint(state, {"version": version, "episodes": EpisodeTracker().state()}))
    return trainer
