"""The learner's metrics, from statuses that a test writes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import get_args

import pytest

from common.config import Config
from common.protocol.messages import Phase
from learner.monitoring.bottleneck import CAUSES
from learner.monitoring.metrics import LearnerCollector
from learner.server.ledger import Totals
from learner.server.status import ServerStatus, SessionStatus
from learner.training.episodes import EpisodeTracker
from learner.training.ppo import UpdateReport
from learner.training.status import PHASES, TrainerStatus

QUIET = ServerStatus(actor_phases=dict.fromkeys(get_args(Phase), 0.0))


def session(slot: int, steps: int) -> SessionStatus:
    return SessionStatus(slot, "host", 0, steps, collecting=True, silent_seconds=0.1)


class Scraped:
    """A collector over statuses that a test may replace."""

    def __init__(
        self,
        server: ServerStatus,
        trainer: TrainerStatus,
        insecure_plaintext: bool = False,
    ) -> None:
        self.server, self.trainer, self.episodes = server, trainer, EpisodeTracker()
        collector = LearnerCollector(
            lambda: self.server,
            lambda: self.trainer,
            self.episodes,
            Config(),
            generation=2,
            silence_seconds=lambda: {"network": 0.5},
            insecure_plaintext=insecure_plaintext,
        )
        self.registry = collector.registry()

    def value(self, name: str, **labels: str) -> float | None:
        """Return one sample of a new scrape."""
        return self.registry.get_sample_value(f"outrider_{name}", labels)


def test_counters_begin_at_0_whatever_the_checkpoint_restored() -> None:
    """The totals of the run are gauges: a counter that starts above 0 looks like a sudden rate."""
    totals = Totals(produced=9_000, trained=8_192, dropped={"actor_lost": 800}, in_flight=8)
    scraped = Scraped(replace(QUIET, totals=totals), TrainerStatus(version=5))
    assert scraped.value("learner_steps_produced_total") == 0
    assert scraped.value("learner_steps_trained_total") == 0
    assert scraped.value("learner_steps_dropped_total", reason="actor_lost") == 0
    assert scraped.value("learner_updates_total") == 0
    assert scraped.value("run_updates") == 5
    assert scraped.value("run_env_steps") == 5 * Config().rollout.batch_steps
    scraped.server = replace(QUIET, totals=Totals(9_100, 8_192, {"actor_lost": 890}, 18))
    assert scraped.value("learner_steps_produced_total") == 100
    assert scraped.value("learner_steps_dropped_total", reason="actor_lost") == 90
    assert scraped.value("learner_steps_in_flight") == 18
    assert scraped.value("learner_accounting_imbalance_steps") == 0


def test_violations_are_counted_by_the_name_of_the_key() -> None:
    scraped = Scraped(replace(QUIET, violations={"hostile": 12, "": 1}), TrainerStatus())
    assert scraped.value("wire_violations_total", key="hostile") == 12
    assert scraped.value("wire_violations_total", key="") == 1


def test_an_imbalance_is_shown_with_its_sign() -> None:
    """Too many steps count as well as too few."""
    scraped = Scraped(replace(QUIET, totals=Totals(10, 12, {}, 0)), TrainerStatus())
    assert scraped.value("learner_accounting_imbalance_steps") == -2


def test_exactly_one_cause_is_the_bottleneck_at_any_time() -> None:
    """Every cause has a sample from the first scrape on, and exactly one of them is 1."""
    scraped = Scraped(QUIET, TrainerStatus())

    def causes() -> dict[str, float]:
        return {cause: scraped.value("bottleneck", cause=cause) or 0.0 for cause in CAUSES}

    assert causes() == dict.fromkeys(CAUSES, 0.0) | {"no_actors": 1.0}
    scraped.server = replace(QUIET, actors=2)
    assert causes() == dict.fromkeys(CAUSES, 0.0) | {"loading": 1.0}
    scraped.trainer = TrainerStatus(warmup_chunks=1)
    assert causes() == dict.fromkeys(CAUSES, 0.0) | {"warmup": 1.0}
    seconds = dict.fromkeys(PHASES, 0.0) | {"wait": 1.0, "train": 9.0}
    scraped.trainer = TrainerStatus(version=1, phase_seconds=seconds)
    scraped.server = replace(
        scraped.server, actor_phases={**QUIET.actor_phases, "env": 2.0, "credit_wait": 18.0}
    )
    assert causes() == dict.fromkeys(CAUSES, 0.0) | {"learner": 1.0}
    assert scraped.value("bottleneck_share_ratio", cause="learner") == pytest.approx(0.9)
    assert scraped.value("bottleneck_share_ratio", cause="collection") == pytest.approx(0.1)


def test_before_the_first_update_there_are_no_samples_of_updates() -> None:
    """A value that does not exist yet has no sample, because 0 would look like a measurement."""
    scraped = Scraped(QUIET, TrainerStatus())
    for name in (
        "episode_return_mean",
        "episode_length_mean_steps",
        "train_entropy_nats",
        "checkpoint_last_success_timestamp_seconds",
    ):
        assert scraped.value(name) is None
    scraped.trainer = TrainerStatus(
        version=1, report=UpdateReport(defaultdict(lambda: 0.5), 1e-4), checkpoint_at=7.0
    )
    scraped.episodes.recent.extend([1.0, 3.0])
    scraped.episodes.lengths.extend([10, 20])
    assert scraped.value("episode_return_mean") == 2.0
    assert scraped.value("episode_length_mean_steps") == 15.0
    assert scraped.value("train_explained_variance_ratio", head="intrinsic") == 0.5
    assert scraped.value("checkpoint_last_success_timestamp_seconds") == 7.0


def test_a_slot_without_a_session_has_no_sample() -> None:
    """There is one label value for each connected session, and no other."""
    scraped = Scraped(replace(QUIET, fleet=(session(0, 128), session(1, 256))), TrainerStatus())
    assert scraped.value("fleet_slot_steps_total", slot="1", machine="no key") == 256
    scraped.server = replace(QUIET, fleet=(session(0, 384),))
    assert scraped.value("fleet_slot_steps_total", slot="0", machine="no key") == 384
    assert scraped.value("fleet_slot_steps_total", slot="1", machine="no key") is None


def test_plain_text_and_refusals_by_reason_are_exported() -> None:
    """The alerts about keys read these two metrics."""
    refused = {"unknown_key": 3, "revoked": 0}
    scraped = Scraped(replace(QUIET, auth_refused=refused), TrainerStatus(), insecure_plaintext=True)
    assert scraped.value("insecure_plaintext") == 1
    assert scraped.value("auth_refused_total", reason="unknown_key") == 3
    assert Scraped(QUIET, TrainerStatus()).value("insecure_plaintext") == 0
