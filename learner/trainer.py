"""The trainer: takes a batch, trains, settles, publishes, opens the next; saves in between.

The order at the end of an update is what makes a checkpoint exact: settle version v, cut the books,
publish v + 1, hand out credit. The file is written while the actors play.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
import torch

from common.chunk import WARMUP_VERSION, Bundle, Spaces
from common.config import Config
from common.ledger import Verdict
from common.moments import Moments
from learner import checkpoint
from learner.admission import Admission
from learner.batch import join, make_batch
from learner.checkpoint import Checkpoint, RunDirectory
from learner.episodes import Episode, EpisodeTracker
from learner.inbox import Delivered, Inbox
from learner.network import Network
from learner.normaliser import Normaliser
from learner.ppo import PPO, Report
from learner.publisher import Offer, Publisher

log = structlog.get_logger()

_POLL_SECONDS = 0.5
_SAVING_SHARE = 0.05  # of the time, at most, goes into checkpoints;
_SAVE_SECONDS = (5.0, 60.0)  # within these bounds between two of them
PHASES = ("wait", "assemble", "train", "publish", "checkpoint")


@dataclass(slots=True)
class Progress:
    """What the trainer shows to other threads; replaced fields, never mutated values."""

    version: int = WARMUP_VERSION
    warmup_chunks: int = 0
    report: Report | None = None
    lag_max: int = 0
    checkpoint_failures: int = 0
    checkpoint_at: float | None = None
    last_update_at: float | None = None
    trained_here: int = 0  # steps trained by this process
    phase_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))


class Trainer:
    """Owns networks, statistics and episodes; the main thread runs it."""

    def __init__(
        self,
        config: Config,
        spaces: Spaces,
        device: torch.device,
        run: RunDirectory,
        epoch: int,
        stop: threading.Event,
    ) -> None:
        self._config, self._spaces, self._device, self._run = config, spaces, device, run
        self._epoch, self._stop = epoch, stop
        self.ppo = PPO(config, spaces, device)
        self.normaliser = Normaliser(spaces, config.rollout.lanes, config.ppo.gamma_intrinsic)
        self.episodes = EpisodeTracker()
        self.progress = Progress()
        self.local_sids: frozenset[bytes] = frozenset()
        self._save_at = 0.0

    # Wiring that exists only once the sockets do.

    def connect(
        self,
        admission: Admission,
        publisher: Publisher,
        network: Network,
        inbox: Inbox,
        watch: Callable[[], None],
    ) -> None:
        """Say where chunks come from and bundles go to; `watch` is called while it waits."""
        self._admission, self._publisher, self._network, self._inbox = admission, publisher, network, inbox
        self._watch = watch

    def target(self) -> Offer | None:
        """The target network on offer; None without a bonus."""
        if not self._config.rnd.enabled:
            return None
        state = {name: value.cpu() for name, value in self.ppo.target.state_dict().items()}
        return Offer.of("target", Bundle(0, 0, state))

    def warm_up(self) -> bool:
        """Fill the observation statistics with random play; False if asked to stop."""
        version = self.progress.version
        if version == WARMUP_VERSION and self._config.warmup_chunks:
            self._open(WARMUP_VERSION, self._config.warmup_chunks)
            parts: list[tuple[tuple[int, int], Moments]] = []
            while len(parts) < self._config.warmup_chunks:
                delivered = self._next()
                if delivered is None:
                    return False
                rows = delivered.chunk.observation[self._spaces.stack - 1 : -1]
                parts.append((delivered.order, Moments.of(rows.reshape(-1, *rows.shape[2:]))))
                self._settle([delivered], "warmup")
                self.progress.warmup_chunks = len(parts)
            self.normaliser.absorb([moments for _, moments in sorted(parts, key=lambda part: part[0])])
        self.progress.version = max(0, version)
        self._turn_over()
        return True

    def _turn_over(self) -> None:
        """From a settled version to credit for the next; the file is written while the actors play."""
        books = self._books() if time.monotonic() >= self._save_at else None
        if self.progress.version < self._config.updates:
            self._publish()
        if books is not None:
            self.save(books)

    def update(self) -> list[Episode] | None:
        """One update, from credit already given to credit for the next; None if asked to stop."""
        chunks: list[Delivered] = []
        while len(chunks) < self._config.rollout.batch_chunks:
            delivered = self._next()
            if delivered is None:
                return None
            chunks.append(delivered)
        chunks.sort(key=lambda delivered: delivered.order)
        version = self.progress.version
        self.progress.lag_max = max(
            self.progress.lag_max, *(version - delivered.version for delivered in chunks)
        )
        with self._phase("assemble"):
            ended = [episode for delivered in chunks for episode in self.episodes.advance(delivered)]
            joined = join([delivered.chunk for delivered in chunks])
            intrinsic = self.normaliser.scale(joined.bonus, [delivered.slot for delivered in chunks])
            acted_under = self.normaliser.observation_statistics()
            self.normaliser.observe(joined.observation)
            mean, std = self.normaliser.observation_statistics()
            sign = self._config.env.reward == "sign"
            batch = make_batch(joined, intrinsic, self._spaces, acted_under, sign, self._device)
        with self._phase("train"):
            statistics = (mean.to(self._device), std.to(self._device))
            report = self.ppo.update(batch, statistics, version / self._config.updates)
        self._settle(chunks, "trained")
        self.progress.version, self.progress.report = version + 1, report
        self.progress.trained_here += self._config.rollout.batch_steps
        self.progress.last_update_at = time.monotonic()
        self._turn_over()
        return ended

    def _next(self) -> Delivered | None:
        with self._phase("wait"):
            while not self._stop.is_set():
                delivered = self._inbox.take(_POLL_SECONDS)
                if delivered is not None:
                    return delivered
                self._watch()
        return None

    def _settle(self, chunks: list[Delivered], verdict: Verdict) -> None:
        names = [(delivered.sid, delivered.offset) for delivered in chunks]
        self._network.ask(lambda: self._admission.settle(names, verdict))

    def _open(self, version: int, places: int) -> None:
        self._network.ask(lambda: self._admission.open(version, places, time.monotonic()))

    def _publish(self) -> None:
        with self._phase("publish"):
            mean, std = self.normaliser.observation_statistics()
            tensors = self.ppo.tensors() | {"mean": mean, "std": std}
            offer = Offer.of("bundle", Bundle(self._epoch, self.progress.version, tensors))
            self._network.ask(lambda: self._publisher.publish(offer))
            self._open(self.progress.version, self._config.rollout.batch_chunks)

    def _books(self) -> str:
        local = set(self.local_sids)
        return self._network.ask(lambda: self._admission.to_json(local))

    def save(self, books: str | None = None) -> None:
        """Write a checkpoint; a failure is counted and training goes on."""
        books = self._books() if books is None else books
        with self._phase("checkpoint"):
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
        optimiser = self.ppo.optimiser.state_dict()["state"]
        tensors = {f"model.{name}": value for name, value in self.ppo.tensors().items()}
        tensors |= {f"target.{name}": value for name, value in self.ppo.target.state_dict().items()}
        tensors |= {
            f"optimiser.{i}.{name}": value for i, state in optimiser.items() for name, value in state.items()
        }
        tensors |= {f"normaliser.{name}": value for name, value in self.normaliser.state().items()}
        tensors["generator"] = self.ppo.generator.get_state()
        meta = {
            "config": self._config.to_json(),
            "version": self.progress.version,
            "books": books,
            "episodes": self.episodes.state(),
        }
        return Checkpoint(tensors, meta)

    def restore(self, saved: Checkpoint) -> None:
        """Continue from a checkpoint; the books are the caller's to restore."""
        self.progress.version = saved.meta["version"]
        self.episodes.load(saved.meta["episodes"])
        self.ppo.load(
            saved.part("model"), saved.part("target"), saved.part("optimiser"), saved.tensors["generator"]
        )
        self.normaliser.load(saved.part("normaliser"))

    def _phase(self, name: str) -> _Timer:
        return _Timer(self.progress.phase_seconds, name)


class _Timer:
    """Adds the time of a block to one entry."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *unused: object) -> None:
        self._seconds[self._name] += time.perf_counter() - self._start
