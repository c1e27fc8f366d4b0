"""The learner's Prometheus metrics, built at each scrape from what the threads show.

Counters begin at 0 with the process; what a checkpoint restored is exported as gauges, because a
counter that jumps back makes rates explode.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import get_args

import torch
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

import common
from common.config import Config
from common.protocol.messages import Reason
from learner.monitoring.bottleneck import SIDES, Recent, busy, held_back
from learner.server.ledger import Totals
from learner.server.status import ServerStatus
from learner.training.episodes import EpisodeTracker
from learner.training.status import PHASES, TrainerStatus

_LAGS = (0, 1, 2, 4, 8, 16)  # bucket bounds, in versions


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"outrider_{name}", text, value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"outrider_{name}", text, value)


def _by(label: str, name: str, text: str, values: Mapping[str, float]) -> Metric:
    return _labelled(CounterMetricFamily(f"outrider_{name}", text, labels=[label]), values)


def _gauge_by(label: str, name: str, text: str, values: Mapping[str, float]) -> Metric:
    return _labelled(GaugeMetricFamily(f"outrider_{name}", text, labels=[label]), values)


def _labelled(family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[str, float]) -> Metric:
    for key, value in values.items():
        family.add_metric([key], value)
    return family


class LearnerCollector:
    """Reads the immutable views of network and trainer; remembers where it began and the last minute."""

    def __init__(
        self,
        view: Callable[[], ServerStatus],
        progress: Callable[[], TrainerStatus],
        episodes: EpisodeTracker,
        config: Config,
        generation: int,
        silences: Callable[[], Mapping[str, float]],
        insecure_plaintext: bool = False,
    ) -> None:
        self._view, self._progress, self._episodes = view, progress, episodes
        self._config, self._generation, self._silences = config, generation, silences
        self._batch_steps = config.rollout.batch_steps
        self._insecure_plaintext = insecure_plaintext
        self._base = view().totals
        self._recent = Recent()

    def collect(self) -> Iterator[Metric]:
        """Prometheus families."""
        view, progress = self._view(), self._progress()
        info = GaugeMetricFamily("outrider_build_info", "The software.", labels=["component", "version"])
        info.add_metric(["learner", common.__version__], 1)
        yield info
        config = self._config
        run = GaugeMetricFamily("outrider_run_info", "The run.", labels=["preset", "env_id", "seed"])
        run.add_metric([config.preset, config.env.id, str(config.seed)], 1)
        yield run
        yield _gauge("learner_epoch", "Lives of the learner in this run.", self._generation)
        yield from self._bottleneck(view, progress)
        yield from self._books(view.totals)
        yield from self._training(progress)
        yield from self._played()
        yield from self._fleet(view)
        yield from self._wire(view)
        silences = self._silences()
        yield _gauge_by("thread", "learner_thread_silence_seconds", "Since a thread turned last.", silences)

    def _bottleneck(self, view: ServerStatus, progress: TrainerStatus) -> Iterator[Metric]:
        shares = busy(*self._recent.since(progress.phase_seconds, view.actor_phases))
        yield _gauge_by("side", "busy_ratio", "Share of the last minute that a side worked.", shares)
        answer = held_back(progress.version, view.actors, shares)
        family = GaugeMetricFamily("outrider_held_back", "1 at what holds back.", labels=["side", "words"])
        for side, words in SIDES.items():
            family.add_metric([side, words], side == answer)
        yield family

    def _books(self, totals: Totals) -> Iterator[Metric]:
        base = self._base
        dropped = {
            reason: totals.dropped.get(reason, 0) - base.dropped.get(reason, 0) for reason in get_args(Reason)
        }
        yield _counter("learner_steps_produced", "Steps made by actors.", totals.produced - base.produced)
        yield _counter("learner_steps_trained", "Steps trained on.", totals.trained - base.trained)
        yield _by("reason", "learner_steps_dropped", "Steps dropped.", dropped)
        yield _gauge("learner_steps_in_flight", "Steps announced, received or in training.", totals.in_flight)
        yield _gauge(
            "learner_accounting_imbalance_steps", "Steps unaccounted for; must be 0.", totals.imbalance
        )

    def _training(self, progress: TrainerStatus) -> Iterator[Metric]:
        updates = max(0, progress.version)
        yield _gauge("run_updates", "Updates of the run.", updates)
        yield _gauge("run_env_steps", "Trained steps of the run.", updates * self._batch_steps)
        goal = self._config.updates * self._batch_steps
        yield _gauge("run_goal_steps", "Trained steps at which the run ends.", goal)
        yield _gauge("learner_policy_version", "Newest version.", progress.version)
        yield _counter(
            "learner_updates", "Updates by this process.", progress.trained_here / self._batch_steps
        )
        yield _by(
            "phase",
            "learner_phase_seconds",
            "Trainer's time.",
            {p: progress.phase_seconds[p] for p in PHASES},
        )
        yield _counter("learner_failed_updates", "Batches with NaN or infinity.", progress.failed_updates)
        yield self._lags(progress.lags)
        yield _counter(
            "checkpoint_failures", "Checkpoints that could not be written.", progress.checkpoint_failures
        )
        if progress.checkpoint_at is not None:
            yield _gauge(
                "checkpoint_last_success_timestamp_seconds", "Last checkpoint.", progress.checkpoint_at
            )
        if progress.report is not None:
            yield _gauge("train_learning_rate", "Adam step size.", progress.report.learning_rate)
            yield from self._figures(progress.report.figures)
        yield _gauge("rnd_bonus_scale", "What a raw bonus is divided by.", progress.bonus_scale)
        yield _gauge("rnd_observations", "Weight of the observation statistics.", progress.observations)
        yield _gauge("device_memory_bytes", "Of tensors on the GPU.", torch.cuda.memory_allocated())

    def _played(self) -> Iterator[Metric]:
        episodes = self._episodes
        yield _gauge("run_episodes", "Finished games of the run.", episodes.count)
        if episodes.mean is not None:
            yield _gauge("episode_return_mean", "Mean raw return of the last 100 episodes.", episodes.mean)
            yield _gauge("episode_return_max", "Best raw return.", episodes.best)
        lengths = list(episodes.lengths)
        if lengths:
            yield _gauge(
                "episode_length_mean_steps", "Of the last 100 episodes.", sum(lengths) / len(lengths)
            )

    def _lags(self, lags: Counter[int]) -> Metric:
        below = [
            (str(float(bound)), float(sum(n for lag, n in lags.items() if lag <= bound))) for bound in _LAGS
        ]
        family = HistogramMetricFamily("outrider_learner_chunk_lag_versions", "Versions behind, by chunk.")
        total = float(sum(lag * n for lag, n in lags.items()))
        family.add_metric([], [*below, ("+Inf", float(lags.total()))], total)
        return family

    def _figures(self, figures: dict[str, float]) -> Iterator[Metric]:
        kinds = ("policy_loss", "value_loss_extrinsic", "value_loss_intrinsic", "predictor_loss")
        losses = {kind.replace("_loss", ""): figures[kind] for kind in kinds}
        yield _gauge_by("kind", "train_loss", "Means of the last update.", losses)
        explained = {head: figures[f"explained_variance_{head}"] for head in ("extrinsic", "intrinsic")}
        yield _gauge_by("head", "train_explained_variance_ratio", "Of the targets, at least -1.", explained)
        norms = {network: figures[f"{network}_grad_norm"] for network in ("policy", "predictor")}
        yield _gauge_by("network", "train_grad_norm", "Before clipping.", norms)
        yield _gauge("train_approx_kl", "From the start of the update, in nats.", figures["approx_kl"])
        yield _gauge(
            "train_clip_fraction_ratio", "Share of ratios outside the clip.", figures["clip_fraction"]
        )
        yield _gauge("train_entropy_nats", "Mean entropy of the policy.", figures["entropy"])
        yield _gauge(
            "train_log_prob_canary",
            "Most that actor and learner differ.",
            figures["actor_learner_log_prob_diff_max"],
        )
        yield _gauge("train_behaviour_kl_nats", "From acting to learning policy.", figures["kl_behaviour"])
        yield _gauge("train_effective_samples_ratio", "Share left by weights.", figures["effective_samples"])
        yield _gauge("train_weight_capped_ratio", "Share of capped weights.", figures["weight_capped"])
        yield _gauge("rnd_intrinsic_reward_mean", "Scaled bonus.", figures["intrinsic_reward_mean"])
        yield _gauge("rnd_intrinsic_reward_std", "Scaled bonus.", figures["intrinsic_reward_std"])
        yield _gauge(
            "rnd_bonus_moved_ratio", "What rating anew changed, deviations.", figures["stale_bonus_shift"]
        )

    def _fleet(self, view: ServerStatus) -> Iterator[Metric]:
        yield _gauge("fleet_actors", "Sessions with a place.", view.actors)
        yield _gauge("fleet_playing", "Sessions that play for a batch.", view.playing)
        if view.chunk_seconds is not None:
            yield _gauge("fleet_chunk_seconds", "Usual time from credit to its chunk.", view.chunk_seconds)
        steps = {str(seated.slot): seated.steps for seated in sorted(view.fleet)}
        yield _by("slot", "fleet_slot_steps", "Steps that the sessions of now sent.", steps)
        yield _gauge("fleet_heartbeat_age_max_seconds", "Longest silence.", view.heartbeat_age_max_seconds)
        yield _gauge("inbox_chunks", "Chunks that wait for the trainer.", view.decoder_chunks)
        yield _counter("inbox_decode_seconds", "Time to decompress chunks.", view.decoder_seconds)
        yield _by("event", "fleet_sessions", "Sessions by event.", view.events)
        yield _by("phase", "fleet_phase_seconds", "All actors' time by phase.", view.actor_phases)

    def _wire(self, view: ServerStatus) -> Iterator[Metric]:
        yield _by("kind", "wire_messages", "Messages read.", view.messages)
        yield _by("reason", "wire_errors", "Messages refused.", view.wire_errors)
        yield _by(
            "reason",
            "auth_refused",
            "Handshakes and messages without an authorised key; the learner's own four tries at start count.",
            view.auth_refused,
        )
        yield _gauge("insecure_plaintext", "1: anybody on the network may join.", self._insecure_plaintext)
        yield _counter("wire_bans", "Peers unheard for a while after offences.", view.bans)
        yield _counter("wire_unheard_messages", "Of the banned, or beyond a quota.", view.unheard)
        yield _counter("wire_received_bytes", "Bytes on the data port.", view.received_bytes)
        yield _counter("wire_chunk_bytes", "Bytes of chunk messages.", view.chunk_bytes)
        yield _counter("wire_duplicate_chunks", "Chunks that came again.", view.duplicates)
        yield _counter("wire_would_block", "Replies a full pipe refused.", view.would_block)
        yield _counter("weights_sent_bytes", "Bytes of weights sent.", view.weights_bytes)
        yield _counter("weights_pulls", "Pulls begun.", view.weights_pulls)

    def registry(self) -> CollectorRegistry:
        """A registry that holds this collector and the process's own figures."""
        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(self)
        return registry
