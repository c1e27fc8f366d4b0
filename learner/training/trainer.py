"""The trainer: takes a batch, trains, settles, publishes, opens the next; saves in between.

The order at the end of an update is what makes a checkpoint exact: settle version v, cut the books,
publish v + 1, hand out credit. The file is written while the actors play.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt
import structlog
import torch

from common.config import Config
from common.model.bundle import Bundle
from common.process.lifecycle import EXIT_INTERNAL, Fatal
from common.protocol.chunk import WARMUP_VERSION, Chunk
from common.spaces import Spaces
from learner.interface import DecodedChunk, TrainerServer
from learner.training import checkpoint
from learner.training.batch import join, make_batch
from learner.training.checkpoint import Checkpoint, RunDirectory
from learner.training.episodes import Episode, EpisodeTracker
from learner.training.normaliser import Normaliser
from learner.training.ppo import PPO, UpdateReport
from learner.training.running_stats import Moments
from learner.training.status import ChunkPreview, TrainerStatus

log = structlog.get_logger()

_POLL_SECONDS = 0.5
_TINY = np.finfo(np.float32).tiny
_FAILURES = 3  # updates in a row that end the run
_SAVING_SHARE = 0.05  # of the time, at most, goes into checkpoints;
_SAVE_SECONDS = (5.0, 60.0)  # within these bounds between two of them


class Trainer:
    """Owns networks, statistics and episodes; the main thread runs it."""

    def __init__(
        self,
        config: Config,
        spaces: Spaces,
        device: torch.device,
        ppo: PPO,
        server: TrainerServer,
        run: RunDirectory,
        generation: int,
        stop: threading.Event,
        on_wait: Callable[[], None],
    ) -> None:
        self._config, self._spaces, self._device, self._run = config, spaces, device, run
        self._generation, self._stop = generation, stop
        self.ppo, self._server, self._on_wait = ppo, server, on_wait
        self.normaliser = Normaliser(spaces, config)
        self.episodes = EpisodeTracker()
        self.progress = TrainerStatus()
        self._waiting: defaultdict[int, list[DecodedChunk]] = defaultdict(list)  # decoded, by batch
        self._failures = 0  # in a row
        self._save_at = 0.0

    def warm_up(self) -> bool:
        """Fill the observation statistics with random play; False if asked to stop."""
        version = self.progress.version
        if version == WARMUP_VERSION and self._config.warmup_chunks:
            self._server.open_batch(WARMUP_VERSION)
            parts: list[tuple[tuple[int, int, int], Moments]] = []
            while len(parts) < self._config.warmup_chunks:
                delivered = self._next()
                if delivered is None:
                    return False
                rows = delivered.chunk.observation[self._spaces.stack - 1 : -1]
                parts.append((delivered.order, Moments.of(rows.reshape(-1, *rows.shape[2:]))))
                self._server.settle([delivered], "warmup")
                self.progress.warmup_chunks = len(parts)
            self.normaliser.merge_warmup([moments for _, moments in sorted(parts, key=lambda part: part[0])])
        self.progress.version = max(0, version)
        self._turn_over()
        return True

    def _turn_over(self) -> None:
        """From a settled version to credit for the next; the file is written while the actors play."""
        books = self._server.accounting() if time.monotonic() >= self._save_at else None
        if self.progress.version < self._config.updates:
            self._publish()
        if books is not None:
            self.save(books)

    def update(self) -> list[Episode] | None:
        """One update, from credit already given to credit for the next; None if asked to stop.

        Raises:
            Fatal: three batches in a row could not be trained on.
        """
        chunks = self._gather()
        if chunks is None:
            return None
        version = self.progress.version
        with self.progress.phase("assemble"):
            joined = join([delivered.chunk for delivered in chunks])
        report = self._train(chunks, joined)
        if report is None:
            self._give_up(chunks, joined)
            return []
        self._failures = 0
        with self.progress.phase("assemble"):
            ended = [episode for delivered in chunks for episode in self.episodes.advance(delivered)]
        self._server.settle(chunks, "trained")
        lags = [version - delivered.version for delivered in chunks]
        self.progress.lags = self.progress.lags + Counter(lags)
        self.progress.lag_max = max(self.progress.lag_max, *lags)
        self.progress.version, self.progress.report = version + 1, report
        self.progress.scene = ChunkPreview.of(chunks[0], self._spaces)
        self.progress.bonus_scale = float(self.normaliser.intrinsic_return.std)
        self.progress.observations = self.normaliser.observation.count
        self.progress.trained_here += self._config.rollout.batch_steps
        self.progress.last_update_at = time.monotonic()
        self._turn_over()
        return ended

    def _gather(self) -> list[DecodedChunk] | None:
        """The batch of the present version, in the order of slots, incarnations and offsets."""
        version = self.progress.version
        while len(self._waiting[version]) < self._config.rollout.batch_chunks:
            delivered = self._next()
            if delivered is None:
                return None
            self._waiting[delivered.batch].append(delivered)
        return sorted(self._waiting.pop(version), key=lambda delivered: delivered.order)

    def _train(self, chunks: list[DecodedChunk], joined: Chunk) -> UpdateReport | None:
        """Statistics, then the update; None, and everything as before, if a number was not finite."""
        version, before = self.progress.version, copy.deepcopy(self.normaliser)
        with self.progress.phase("assemble"):
            acted_under = self.normaliser.observation_statistics()
            lag = np.array([version - delivered.version for delivered in chunks])
            moved = self._rate_stale(joined, lag, acted_under)
            intrinsic = self.normaliser.scale(joined.bonus, [delivered.slot for delivered in chunks])
            reward = self._reward(chunks, joined)
            self.normaliser.observe(joined.observation)
            mean, std = self.normaliser.observation_statistics()
            lanes = np.repeat(lag, self._config.rollout.lanes)
            batch = make_batch(joined, lanes, reward, intrinsic, self._spaces, acted_under, self._device)
        with self.progress.phase("train"):
            statistics = (mean.to(self._device), std.to(self._device))
            report = self.ppo.update(batch, statistics, version / self._config.updates)
        if report is None:
            self.normaliser = before
            return None
        return replace(report, figures=report.figures | {"stale_bonus_shift": moved})

    def _rate_stale(
        self, joined: Chunk, lag: npt.NDArray[np.int64], statistics: tuple[torch.Tensor, torch.Tensor]
    ) -> float:
        """Replace the bonus of chunks behind this version by what the predictor says now.

        Returns:
            How far that moved it: the mean distance in deviations of the new one; 0 with nothing stale.
        """
        lanes = np.flatnonzero(np.repeat(lag > 0, self._config.rollout.lanes))
        if not self._config.rnd.enabled or not len(lanes):
            return 0.0
        rows = torch.from_numpy(joined.observation[self._spaces.stack :, lanes]).to(self._device)
        mean, std = (x.to(self._device) for x in statistics)
        bonus = self.ppo.compute_bonus(rows, (mean, std)).cpu().numpy()
        distance = np.abs(joined.bonus[:, lanes] - bonus).mean() / max(bonus.std(), _TINY)
        joined.bonus[:, lanes] = bonus
        return float(distance)

    def _reward(self, chunks: list[DecodedChunk], joined: Chunk) -> npt.NDArray[np.float32]:
        """What the extrinsic stream learns from."""
        match self._config.env.reward:
            case "sign":
                return np.sign(joined.reward)
            case "scaled":
                lives = [(delivered.slot, delivered.incarnation, delivered.fresh) for delivered in chunks]
                return self.normaliser.scale_reward(joined.reward, joined.done, lives)
            case _:
                return joined.reward

    def _give_up(self, chunks: list[DecodedChunk], joined: Chunk) -> None:
        """Keep the batch on disk, book its steps, and ask for another one."""
        self._failures += 1
        self.progress.failed_updates += 1
        path = self._run.path / "failed" / f"{self.progress.version:09d}-{self.progress.failed_updates}.npz"
        with contextlib.suppress(OSError):  # a full disk must not end what this is about to mend
            path.parent.mkdir(exist_ok=True)
            np.savez_compressed(path, **{x.name: getattr(joined, x.name) for x in fields(joined)})
        log.error(
            "update_failed", version=self.progress.version, batch=str(path), next="trying another batch"
        )
        self._server.settle(chunks, "update_failed")
        if self._failures == _FAILURES:
            raise Fatal(
                EXIT_INTERNAL,
                f"expected finite losses, got NaN or infinity from {_FAILURES} batches in a row: lower "
                f"--ppo.learning-rate, or look into {path.parent}; the last checkpoint is from before",
            )
        self._server.retry_batch()

    def _next(self) -> DecodedChunk | None:
        while not self._stop.is_set():
            self.progress.last_loop_at = time.monotonic()
            with self.progress.phase("wait"):
                delivered = self._server.take(_POLL_SECONDS)
            if delivered is not None:
                return delivered
            self._on_wait()
        return None

    def _publish(self) -> None:
        with self.progress.phase("publish"):
            mean, std = self.normaliser.observation_statistics()
            tensors = self.ppo.tensors() | {"mean": mean, "std": std}
            self._server.publish(Bundle(self._generation, self.progress.version, tensors))
            self._server.open_batch(self.progress.version)

    def save(self, books: str | None = None) -> None:
        """Write a checkpoint; a failure is counted and training goes on."""
        books = self._server.accounting() if books is None else books
        with self.progress.phase("checkpoint"):
            start = time.monotonic()
            try:
                checkpoint.save(self._run.checkpoints, max(0, self.progress.version), self._snapshot(books))
            except OSError as error:
                self.progress.checkpoint_failures += 1
                log.error("checkpoint_failed", reason=str(error), next="trying again later")
            else:
                self.progress.checkpoint_at = time.time()
            now = time.monotonic()
            least, most = _SAVE_SECONDS
            self._save_at = now + min(most, max(least, (now - start) / _SAVING_SHARE))

    def _snapshot(self, books: str) -> Checkpoint:
        normaliser = {f"normaliser.{name}": value for name, value in self.normaliser.state().items()}
        meta = {
            "config": self._config.to_json(),
            "version": self.progress.version,
            "books": books,
            "episodes": self.episodes.state(),
        }
        return Checkpoint(self.ppo.state() | normaliser, meta)

    def restore(self, saved: Checkpoint) -> None:
        """Continue from a checkpoint; the caller restores `ppo` and the server."""
        self.progress.version = saved.meta["version"]
        self.episodes.load(saved.meta["episodes"])
        self.normaliser.load(saved.part("normaliser"))
