"""Shows and records a run: metrics, live page, progress line, run log and summary.

It reads only `ServerStatus`, `TrainerStatus` and the episodes, and calls neither server nor trainer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from common import envs
from common.config import Config
from common.metrics import LEARNER_PORT, Exporter
from learner.monitoring.metrics import LearnerCollector
from learner.monitoring.page import Page
from learner.monitoring.progress_line import ProgressFacts, ProgressLine, RecentRate
from learner.monitoring.run_logger import RunLogger
from learner.monitoring.run_metrics import RunCollector
from learner.monitoring.summary import ProcessFacts, summarise
from learner.server.status import ServerStatus
from learner.training.episodes import Episode, EpisodeTracker
from learner.training.status import TrainerStatus

log = structlog.get_logger()


class RunMonitor:
    """The monitoring of one learner process. The main thread calls its methods.

    Page and metrics are built in the threads of the HTTP server.
    """

    def __init__(
        self,
        config: Config,
        generation: int,
        run_dir: Path,
        server_status: Callable[[], ServerStatus],
        trainer_status: Callable[[], TrainerStatus],
        episodes: EpisodeTracker,
    ) -> None:
        self._config, self._generation, self._episodes = config, generation, episodes
        self._run_dir, self._server_status, self._trainer_status = run_dir, server_status, trainer_status
        self._logger = RunLogger(run_dir, self.env_steps)
        self._line, self._rate = ProgressLine(), RecentRate()
        self._started_at = time.monotonic()

    def close(self) -> None:
        """Close the files of the run log."""
        self._logger.close()

    def serve(
        self, host: str, silence_seconds: Callable[[], Mapping[str, float]], insecure_plaintext: bool
    ) -> Exporter:
        """Serve metrics and page at `host`; `silence_seconds` is the time since each thread's last loop."""
        collector = LearnerCollector(
            self._server_status,
            self._trainer_status,
            self._episodes,
            self._config,
            self._generation,
            silence_seconds,
            insecure_plaintext,
        )
        page = Page(
            self._config,
            self.facts,
            self._server_status,
            self._trainer_status,
            lambda: self._logger.curve.points,
        )
        registry = RunCollector(collector.registry(), self._run_dir).registry()
        exporter = Exporter(registry, LEARNER_PORT, host, page.routes)
        log.info("metrics_served", port=exporter.port)
        return exporter

    @property
    def env_steps(self) -> int:
        """The number of steps that the run was trained on."""
        return max(0, self._trainer_status().version) * self._config.rollout.batch_steps

    @property
    def _frames(self) -> int:
        """The number of emulator frames in `env_steps`."""
        return self.env_steps * envs.frames_per_step(self._config.env)

    @property
    def _steps_per_second(self) -> float:
        """Mean training rate of this process, from its first credit to its last update; 0 before that."""
        status, first = self._trainer_status(), self._server_status().first_credit_at
        if first is None or status.last_update_at is None:
            return 0.0
        return status.trained_here / (status.last_update_at - first)

    def facts(self) -> ProgressFacts:
        """Return what the progress line and the page show."""
        config, trainer = self._config, self._trainer_status()
        report, chunks = trainer.report, config.warmup_chunks
        bonus = report.figures["intrinsic_reward_mean"] if report and config.rnd.enabled else None
        warming = trainer.version < 0 and chunks > 0
        return ProgressFacts(
            env_steps=self.env_steps,
            total_steps=config.updates * config.rollout.batch_steps,
            frames=self._frames,
            steps_per_second=self._rate.per_second(time.monotonic()),
            return_mean=self._episodes.mean,
            bonus=bonus,
            actors=self._server_status().actors,
            lag=trainer.lag_max,
            warmup=f"{trainer.warmup_chunks}/{chunks} chunks of random actions" if warming else None,
        )

    def show(self, last: bool = False) -> None:
        """Print the progress line if it is due, or in any case if it is the last one."""
        self._line.show(self.facts(), last=last)

    def begin(self) -> None:
        """Start to measure the training rate; called after the warm-up."""
        self._rate.add(time.monotonic(), self.env_steps)

    def record(self, ended: Sequence[Episode]) -> None:
        """Record an update and the episodes that ended in its batch."""
        self._rate.add(time.monotonic(), self.env_steps)
        self._logger.episodes(list(ended), self.env_steps, self._frames, time.monotonic() - self._started_at)
        self._logger.scalars(self._scalars(), self.env_steps)

    def _scalars(self) -> dict[str, float]:
        """Return the TensorBoard points of the last update; none before the first."""
        report, speed, mean = self._trainer_status().report, self._steps_per_second, self._episodes.mean
        if report is None:
            return {}
        scalars = {f"train/{name}": value for name, value in report.figures.items()}
        scalars["train/learning_rate"] = report.learning_rate
        if speed:
            scalars["speed/steps_per_second"] = speed
        if mean is not None:
            scalars["episodes/return_mean_100"] = mean
        if self._episodes.rooms:
            scalars["episodes/rooms_found"] = len(self._episodes.rooms)
        return scalars

    def summarise(self, exit_reason: str) -> dict[str, object]:
        """Write summary.json and return its fields."""
        wall_seconds = time.monotonic() - self._started_at
        process = ProcessFacts(
            self._generation, self.env_steps, self._frames, wall_seconds, self._steps_per_second
        )
        summary = summarise(
            self._config, process, self._trainer_status(), self._episodes, self._server_status(), exit_reason
        )
        self._logger.summary(summary)
        return summary
