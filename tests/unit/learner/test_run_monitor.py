"""What the monitoring makes of the statuses of server and trainer."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.config import Config, RNDConfig
from learner.monitoring.run_monitor import RunMonitor
from learner.server.status import ServerStatus
from learner.training.episodes import EpisodeTracker
from learner.training.ppo import UpdateReport
from learner.training.status import TrainerStatus

CONFIG = Config()
BATCH_STEPS = CONFIG.rollout.batch_steps


class Monitored:
    """A monitor over statuses that a test replaces."""

    def __init__(self, run_dir: Path, config: Config = CONFIG) -> None:
        self.run_dir = run_dir
        self.server, self.trainer, self.episodes = ServerStatus(), TrainerStatus(), EpisodeTracker()
        self.monitor = RunMonitor(
            config, 2, run_dir, lambda: self.server, lambda: self.trainer, self.episodes
        )


@pytest.fixture
def monitored(tmp_path: Path) -> Iterator[Monitored]:
    monitored = Monitored(tmp_path)
    yield monitored
    monitored.monitor.close()


def updated(version: int, trained_here: int = 0) -> TrainerStatus:
    """After an update, at second 60 of time.monotonic()."""
    report = UpdateReport(defaultdict(lambda: 0.25), 1e-4)
    return TrainerStatus(
        version=version, report=report, lag_max=1, trained_here=trained_here, last_update_at=60.0
    )


def test_the_warm_up_is_shown_until_the_first_version(monitored: Monitored) -> None:
    monitored.trainer = TrainerStatus(warmup_chunks=3)
    assert monitored.monitor.facts().warmup == f"3/{CONFIG.warmup_chunks} chunks of random actions"
    monitored.trainer = TrainerStatus(version=0)
    assert monitored.monitor.facts().warmup is None


def test_the_facts_are_those_of_both_statuses(monitored: Monitored) -> None:
    monitored.trainer, monitored.server = updated(3), ServerStatus(actors=5)
    facts = monitored.monitor.facts()
    assert (facts.env_steps, facts.total_steps) == (3 * BATCH_STEPS, CONFIG.updates * BATCH_STEPS)
    assert (facts.actors, facts.lag, facts.bonus, facts.return_mean) == (5, 1, 0.25, None)


def test_a_run_without_a_bonus_shows_none(tmp_path: Path) -> None:
    plain = Monitored(tmp_path, replace(CONFIG, rnd=RNDConfig(enabled=False)))
    plain.trainer = updated(3)
    assert plain.monitor.facts().bonus is None
    plain.monitor.close()


def test_the_summary_is_written_with_the_speed_of_this_process(monitored: Monitored) -> None:
    """Its steps from the first credit to the last update, not those of earlier processes of the run."""
    monitored.trainer = updated(30, trained_here=10 * BATCH_STEPS)
    monitored.server = ServerStatus(first_credit_at=20.0)
    summary = monitored.monitor.summarise("stopped")
    assert summary["steps_per_second"] == pytest.approx(10 * BATCH_STEPS / 40.0, abs=0.01)
    assert (summary["epoch"], summary["updates"], summary["exit_reason"]) == (2, 30, "stopped")
    assert json.loads((monitored.run_dir / "summary.json").read_text()) == summary
