"""What the learner's exporter says, from views that a test writes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import get_args

import pytest

from common.config import Config
from common.protocol.messages import Phase
from learner.monitoring.bottleneck import SIDES
from learner.monitoring.metrics import LearnerCollector
from learner.server.ledger import Totals
from learner.server.status import ServerStatus, SessionStatus
from learner.training.episodes import EpisodeTracker
from learner.training.ppo import UpdateReport
from learner.training.status import PHASES, TrainerStatus

QUIET = ServerStatus(actor_phases=dict.fromkeys(get_args(Phase), 0.0))


def sits(slot: int, steps: int) -> SessionStatus:
    return SessionStatus(slot, "host", 0, steps, plays=True, silent_seconds=0.1)


class Shown:
    """An exporter over a view that a test may replace."""

    def __init__(
        self,
        view: ServerStatus,
        progress: TrainerStatus,
        insecure_plaintext: bool = False,
    ) -> None:
        self.view, self.progress, self.episodes = view, progress, EpisodeTracker()
        collector = LearnerCollector(
            lambda: self.view,
            lambda: self.progress,
            self.episodes,
            Config(),
            generation=2,
            silences=lambda: {"network": 0.5},
            insecure_plaintext=insecure_plaintext,
        )
        self.registry = collector.registry()

    def value(self, name: str, **labels: str) -> float | None:
        """One sample of one scrape."""
        return self.registry.get_sample_value(f"outrider_{name}", labels)


def test_counters_begin_at_0_whatever_the_checkpoint_restored() -> None:
    """The run's totals are gauges; a restored counter would look like an hour's work in one scrape."""
    books = Totals(produced=9_000, trained=8_192, dropped={"actor_lost": 800}, in_flight=8)
    shown = Shown(replace(QUIET, totals=books), TrainerStatus(version=5))
    assert shown.value("learner_steps_produced_total") == 0
    assert shown.value("learner_steps_trained_total") == 0
    assert shown.value("learner_steps_dropped_total", reason="actor_lost") == 0
    assert shown.value("learner_updates_total") == 0
    assert shown.value("run_updates") == 5
    assert shown.value("run_env_steps") == 5 * Config().rollout.batch_steps
    shown.view = replace(QUIET, totals=Totals(9_100, 8_192, {"actor_lost": 890}, 18))
    assert shown.value("learner_steps_produced_total") == 100
    assert shown.value("learner_steps_dropped_total", reason="actor_lost") == 90
    assert shown.value("learner_steps_in_flight") == 18
    assert shown.value("learner_accounting_imbalance_steps") == 0


def test_an_imbalance_is_shown_with_its_sign() -> None:
    """Steps too many as well as steps too few."""
    shown = Shown(replace(QUIET, totals=Totals(10, 12, {}, 0)), TrainerStatus())
    assert shown.value("learner_accounting_imbalance_steps") == -2


def test_exactly_one_side_holds_back_at_any_time() -> None:
    """Every side is there from the first scrape on, with its words, and one of them is 1."""
    shown = Shown(QUIET, TrainerStatus())

    def sides() -> dict[str, float]:
        return {
            side: shown.value("held_back", side=side, words=words) or 0.0 for side, words in SIDES.items()
        }

    assert sides() == dict.fromkeys(SIDES, 0.0) | {"nobody": 1.0}
    shown.view = replace(QUIET, actors=2)
    assert sides() == dict.fromkeys(SIDES, 0.0) | {"warmup": 1.0}
    seconds = dict.fromkeys(PHASES, 0.0) | {"wait": 1.0, "train": 9.0}
    shown.progress = TrainerStatus(version=1, phase_seconds=seconds)
    shown.view = replace(shown.view, actor_phases={**QUIET.actor_phases, "env": 2.0, "credit_wait": 18.0})
    assert sides() == dict.fromkeys(SIDES, 0.0) | {"learner": 1.0}
    assert shown.value("busy_ratio", side="learner") == pytest.approx(0.9)
    assert shown.value("busy_ratio", side="actors") == pytest.approx(0.1)


def test_before_the_first_update_nothing_is_made_up() -> None:
    """No return, no loss, no checkpoint: no sample, instead of a zero that looks like one."""
    shown = Shown(QUIET, TrainerStatus())
    for name in (
        "episode_return_mean",
        "episode_length_mean_steps",
        "train_entropy_nats",
        "checkpoint_last_success_timestamp_seconds",
        "fleet_chunk_seconds",
    ):
        assert shown.value(name) is None
    shown.progress = TrainerStatus(
        version=1, report=UpdateReport(defaultdict(lambda: 0.5), 1e-4), checkpoint_at=7.0
    )
    shown.episodes.recent.extend([1.0, 3.0])
    shown.episodes.lengths.extend([10, 20])
    assert shown.value("episode_return_mean") == 2.0
    assert shown.value("episode_length_mean_steps") == 15.0
    assert shown.value("train_explained_variance_ratio", head="intrinsic") == 0.5
    assert shown.value("checkpoint_last_success_timestamp_seconds") == 7.0


def test_a_slot_that_is_given_up_leaves_no_series_behind() -> None:
    """Labels are as many as the fleet is large, and no more."""
    shown = Shown(replace(QUIET, fleet=(sits(0, 128), sits(1, 256))), TrainerStatus())
    assert shown.value("fleet_slot_steps_total", slot="1") == 256
    shown.view = replace(QUIET, fleet=(sits(0, 384),))
    assert shown.value("fleet_slot_steps_total", slot="0") == 384
    assert shown.value("fleet_slot_steps_total", slot="1") is None


def test_plain_text_for_other_machines_and_refusals_by_reason_are_exported() -> None:
    """What the alerts about keys look at."""
    refused = {"unknown_key": 3, "revoked": 0}
    shown = Shown(replace(QUIET, auth_refused=refused), TrainerStatus(), insecure_plaintext=True)
    assert shown.value("insecure_plaintext") == 1
    assert shown.value("auth_refused_total", reason="unknown_key") == 3
    assert Shown(QUIET, TrainerStatus()).value("insecure_plaintext") == 0
