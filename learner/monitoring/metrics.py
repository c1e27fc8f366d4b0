"""The learner's Prometheus metrics, built at each scrape from the status of trainer and server.

Counters begin at 0 with the process. Totals of the run, which a checkpoint restores, are gauges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector

import common
from common.config import Config
from learner.monitoring.bottleneck import CAUSES, Fleet, TimeWindow, bottleneck, time_shares
from learner.monitoring.families import Family, gauge, gauges, info
from learner.monitoring.server_metrics import accounting_metrics, network_metrics, session_metrics
from learner.monitoring.trainer_metrics import (
    checkpoint_metrics,
    episode_metrics,
    intrinsic_reward_metrics,
    progress_metrics,
    update_metrics,
)
from learner.server.status import ServerStatus
from learner.training.episodes import EpisodeTracker
from learner.training.status import TrainerStatus


class LearnerCollector:
    """Collects every metric of the learner at each scrape.

    Args:
        server, trainer: return the newest status.
        episodes: the finished episodes of the run.
        config: the configuration of the run.
        generation: number of earlier learner processes of the run.
        silence_seconds: returns the time since each thread's last loop.
        insecure_plaintext: whether other machines may connect without keys.
    """

    def __init__(
        self,
        server: Callable[[], ServerStatus],
        trainer: Callable[[], TrainerStatus],
        episodes: EpisodeTracker,
        config: Config,
        generation: int,
        silence_seconds: Callable[[], Mapping[str, float]],
        insecure_plaintext: bool = False,
    ) -> None:
        self._server, self._trainer, self._episodes = server, trainer, episodes
        self._config, self._generation = config, generation
        self._silence_seconds = silence_seconds
        self._insecure_plaintext = insecure_plaintext
        self._restored = server().totals  # at the start of the process
        self._window = TimeWindow()

    def collect(self) -> Iterator[Family]:
        """Yield every family, all from one status of the server and one of the trainer."""
        server, trainer = self._server(), self._trainer()
        yield from self._process_metrics()
        yield from self._bottleneck_metrics(server, trainer)
        yield from accounting_metrics(server.totals, self._restored)
        yield from progress_metrics(trainer, self._config)
        yield from checkpoint_metrics(trainer)
        yield from update_metrics(trainer)
        yield from intrinsic_reward_metrics(trainer)
        yield from episode_metrics(self._episodes)
        yield from session_metrics(server)
        yield from network_metrics(server)

    def _process_metrics(self) -> Iterator[Family]:
        config = self._config
        software = {"component": "learner", "version": common.__version__}
        yield info("build_info", "Version of the software; the value is always 1.", software)
        run = {"preset": config.preset, "env_id": config.env.id, "seed": str(config.seed)}
        yield info("run_info", "Preset, task and seed of the run; the value is always 1.", run)
        yield gauge("learner_generation", "Number of earlier learner processes of the run.", self._generation)
        yield gauges(
            "learner_thread_silence_seconds",
            "Time since each thread of the learner last completed a loop, in seconds.",
            "thread",
            self._silence_seconds(),
        )
        yield gauge(
            "insecure_plaintext",
            "1 if the learner accepts connections from other machines without keys, else 0.",
            self._insecure_plaintext,
        )

    def _bottleneck_metrics(self, server: ServerStatus, trainer: TrainerStatus) -> Iterator[Family]:
        fleet = Fleet.of(self._config, server.actors)
        shares = time_shares(*self._window.growth(trainer.phase_seconds, server.actor_phases), fleet)
        yield gauges(
            "bottleneck_share_ratio",
            "Share of the last minute that each possible bottleneck accounts for, by cause.",
            "cause",
            shares,
        )
        largest = bottleneck(trainer.version, trainer.warmup_chunks, fleet, shares)
        yield gauges(
            "bottleneck",
            "1 for the cause that limits the speed of the run, 0 for the others.",
            "cause",
            {cause: cause == largest for cause in CAUSES},
        )

    def registry(self) -> CollectorRegistry:
        """Return a registry of this collector and of the process's standard metrics."""
        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(self)
        return registry
