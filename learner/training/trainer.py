"""The trainer's loop: gather a batch, build it, update, settle, publish.

The order at the end of an update makes a checkpoint exact: settle the batch of version v, take the step
accounting, publish version v + 1, hand out credit. The file is written while the actors play.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from common.config import Config
from common.model.bundle import Bundle
from common.phase_timer import PhaseTimer
from common.protocol.chunk import WARMUP_VERSION
from common.spaces import Spaces
from learner.interface import DecodedChunk, TrainerServer
from learner.training.batch_builder import BatchBuilder, BuiltBatch
from learner.training.checkpoint import Checkpoint
from learner.training.checkpoint_writer import CheckpointWriter
from learner.training.episodes import Episode, EpisodeTracker
from learner.training.failed_batches import FailedBatches
from learner.training.faulty_chunks import FaultyChunkFinder
from learner.training.gatherer import BatchGatherer
from learner.training.normaliser import Normaliser
from learner.training.ppo import PPO, UpdateReport
from learner.training.running_stats import Moments
from learner.training.status import PHASES, ChunkPreview, TrainerStatus


class Trainer:
    """Trains on the batches of a server. The main thread runs it; other threads read `status`."""

    def __init__(
        self,
        config: Config,
        spaces: Spaces,
        device: torch.device,
        ppo: PPO,
        server: TrainerServer,
        checkpoints: CheckpointWriter,
        failed_batches: Path,
        generation: int,
        stop: threading.Event,
        on_wait: Callable[[], None],
    ) -> None:
        """Prepare a run from its beginning; `restore` continues one.

        Args:
            config: configuration of the run.
            spaces: observation and action spaces of the task.
            device: device on which `ppo` trains.
            ppo: networks and optimiser.
            server: delivers chunks, takes bundles.
            checkpoints: writes the checkpoints.
            failed_batches: directory for batches whose update failed; the first of them creates it.
            generation: number of earlier learner processes of the run.
            stop: ends `warm_up` and `update`.
            on_wait: called about twice a second while no chunk arrives.
        """
        self._config, self._spaces, self._server = config, spaces, server
        self._checkpoints, self._generation = checkpoints, generation
        self.ppo, self.normaliser, self.episodes = ppo, Normaliser(spaces, config), EpisodeTracker()
        self._status = TrainerStatus()
        self._timer = PhaseTimer(PHASES)
        self._gatherer = BatchGatherer(server, config.rollout.batch_chunks, self._timer, stop, on_wait)
        self._builder = BatchBuilder(config, spaces, device, ppo.compute_bonus)
        self._failed = FailedBatches(failed_batches)
        self._faulty_chunks = FaultyChunkFinder(config, spaces, ppo, self._builder)

    @property
    def status(self) -> TrainerStatus:
        """The present status; any thread may read it."""
        return replace(self._status, phase_seconds=self._timer.seconds)

    @property
    def last_loop_at(self) -> float:
        """The time.monotonic() of the trainer's last wait for a chunk, for the watchdog."""
        return self._gatherer.last_loop_at

    def restore(self, saved: Checkpoint) -> None:
        """Continue from a checkpoint; the caller restores `ppo` and the server."""
        self._status = replace(self._status, version=saved.meta["version"])
        self.episodes.load(saved.meta["episodes"])
        self.normaliser.load(saved.part("normaliser"))

    def warm_up(self) -> bool:
        """Fill the observation statistics with random play and publish the first bundle.

        Returns:
            False if asked to stop.
        """
        if self._status.version == WARMUP_VERSION and self._config.warmup_chunks:
            self._server.open_batch(WARMUP_VERSION)
            parts: list[tuple[tuple[int, int, int], Moments]] = []  # with the order of their chunks
            while len(parts) < self._config.warmup_chunks:
                decoded = self._gatherer.next_chunk()
                if decoded is None:
                    return False
                rows = decoded.chunk.observation[self._spaces.stack - 1 : -1]
                parts.append((decoded.order, Moments.of(rows.reshape(-1, *rows.shape[2:]))))
                self._server.settle([decoded], "warmup")
                self._status = replace(self._status, warmup_chunks=len(parts))
            self.normaliser.merge_warmup([moments for _, moments in sorted(parts, key=lambda part: part[0])])
        self._status = replace(self._status, version=max(0, self._status.version))
        self._publish()
        return True

    def update(self) -> list[Episode] | None:
        """Run one update, and hand out credit for the next one.

        Returns:
            The episodes that ended in the batch; None if asked to stop.

        Raises:
            Fatal: three batches in a row had no finite losses, and no chunk is to blame.
        """
        chunks = self._gatherer.gather(self._status.version)
        if chunks is None:
            return None
        began_at = time.monotonic()
        with self._timer.computation():
            with self._timer.measure("assemble"):
                built = self._builder.build(chunks, self._status.version, self.normaliser)
            report = self._train(built)
        if report is None:
            self._drop(chunks, built)
            return []
        with self._timer.measure("assemble"):
            ended = [episode for decoded in chunks for episode in self.episodes.advance(decoded)]
        self._server.settle(chunks, "trained")
        self._record(chunks, report)
        durations = self._status.update_durations.with_one(time.monotonic() - began_at)
        self._status = replace(self._status, update_durations=durations)
        self._publish()
        return ended

    def save(self, accounting: str | None = None) -> None:
        """Write a checkpoint with the given step accounting, or with the present one."""
        accounting = self._server.accounting() if accounting is None else accounting
        with self._timer.measure("checkpoint"):
            self._checkpoints.save(self.snapshot(accounting))
        self._status = replace(
            self._status,
            checkpoint_failures=self._checkpoints.failures,
            checkpoint_at=self._checkpoints.saved_at,
            checkpoint_durations=self._checkpoints.durations,
        )

    def snapshot(self, accounting: str) -> Checkpoint:
        """Return everything that a resumed run needs, on the host."""
        normaliser = {f"normaliser.{name}": value for name, value in self.normaliser.state().items()}
        meta = {
            "config": self._config.to_json(),
            "version": self._status.version,
            "accounting": accounting,
            "episodes": self.episodes.state(),
        }
        return Checkpoint(self.ppo.state() | normaliser, meta)

    @property
    def _progress(self) -> float:
        """The share of the run's updates that are done, in [0, 1)."""
        return self._status.version / self._config.updates

    def _train(self, built: BuiltBatch) -> UpdateReport | None:
        """Update networks and statistics; change neither and return None if a figure is not finite."""
        with self._timer.measure("train"):
            report = self.ppo.update(built.batch, built.statistics, self._progress)
        if report is None:
            return None
        self.normaliser = built.normaliser
        return replace(report, figures=report.figures | {"stale_bonus_shift": built.stale_bonus_shift})

    def _drop(self, chunks: list[DecodedChunk], built: BuiltBatch) -> None:
        """Drop the chunks to blame for a failed update, or all of them, and ask for others in their place."""
        version = self._status.version
        self._failed.keep(built.joined, version)
        self._status = replace(self._status, failed_updates=self._failed.total)
        with self._timer.measure("train"):
            faulty = self._faulty_chunks.find(chunks, version, self.normaliser, self._progress)
        dropped = faulty or chunks
        self._server.settle(dropped, "update_failed")
        if faulty:
            self._server.record_violations(faulty, "expected a chunk with finite losses, got NaN or infinity")
            self._gatherer.put_back([decoded for decoded in chunks if decoded not in faulty])
        else:
            self._failed.count_unexplained()
        self._server.retry_batch(len(dropped))

    def _record(self, chunks: list[DecodedChunk], report: UpdateReport) -> None:
        """Move the status to the next version."""
        self._failed.clear()
        self._faulty_chunks.reference = chunks[0]
        status = self._status
        lags = [status.version - decoded.version for decoded in chunks]
        self._status = replace(
            status,
            version=status.version + 1,
            report=report,
            preview=ChunkPreview.of(chunks[0], self._spaces),
            bonus_scale=float(self.normaliser.intrinsic_return.std),
            observations=self.normaliser.observation.count,
            lag_max=max(status.lag_max, *lags),
            lags=status.lags + Counter(lags),
            last_update_at=time.monotonic(),
            trained_here=status.trained_here + self._config.rollout.batch_steps,
        )

    def _publish(self) -> None:
        """Publish this version and hand out credit for its batch; then write the checkpoint if it is due."""
        accounting = self._server.accounting() if self._checkpoints.due else None
        if self._status.version < self._config.updates:
            with self._timer.measure("publish"):
                mean, std = self.normaliser.observation_statistics()
                tensors = self.ppo.tensors() | {"mean": mean, "std": std}
                self._server.publish(Bundle(self._generation, self._status.version, tensors))
                self._server.open_batch(self._status.version)
        if accounting is not None:
            self.save(accounting)
