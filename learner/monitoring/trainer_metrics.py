"""Builds the metrics of training: progress, updates, intrinsic reward, episodes and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from common.config import Config
from common.metrics import duration_histogram
from learner.monitoring.families import Family, counter, counters, gauge, gauges, histogram
from learner.training.episodes import EpisodeTracker
from learner.training.status import PHASES, TrainerStatus

_LAG_BOUNDS = (0, 1, 2, 4, 8, 16)  # in versions


def progress_metrics(status: TrainerStatus, config: Config) -> Iterator[Family]:
    """Return the families of the run's progress and the trainer's time."""
    batch_steps, updates = config.rollout.batch_steps, max(0, status.version)
    yield gauge("run_updates", "Number of updates of the run, including those before a restart.", updates)
    yield gauge(
        "run_env_steps", "Number of environment steps that the run has trained on.", updates * batch_steps
    )
    yield gauge(
        "run_target_steps",
        "Number of environment steps after which the run ends.",
        config.updates * batch_steps,
    )
    yield gauge(
        "run_batch_chunks",
        "Number of chunks in a batch, which is the number of actors that one batch has room for.",
        config.rollout.batch_chunks,
    )
    yield gauge("learner_policy_version", "Newest policy version; -1 during the warm-up.", status.version)
    yield counter(
        "learner_updates",
        "Total number of updates since the process started.",
        status.trained_here / batch_steps,
    )
    yield duration_histogram(
        "learner_update_seconds",
        "Time of an update from its last chunk on, without checkpoints, in seconds.",
        status.update_durations,
    )
    yield counters(
        "learner_phase_seconds",
        "Total time of the trainer by phase, in seconds.",
        "phase",
        {phase: status.phase_seconds[phase] for phase in PHASES},
    )
    yield counter(
        "learner_failed_updates",
        "Total number of updates that were discarded because of NaN or infinity.",
        status.failed_updates,
    )
    yield histogram(
        "learner_chunk_lag_versions",
        "Number of policy versions between the collection of a chunk and its training.",
        status.lags,
        _LAG_BOUNDS,
    )
    yield gauge(
        "device_memory_bytes", "GPU memory that PyTorch tensors use, in bytes.", torch.cuda.memory_allocated()
    )


def checkpoint_metrics(status: TrainerStatus) -> Iterator[Family]:
    """Return the families of the checkpoints."""
    yield counter(
        "checkpoint_failures",
        "Total number of checkpoints that could not be written.",
        status.checkpoint_failures,
    )
    yield duration_histogram(
        "checkpoint_seconds", "Time to write a checkpoint, in seconds.", status.checkpoint_durations
    )
    if status.checkpoint_at is not None:
        yield gauge(
            "checkpoint_last_success_timestamp_seconds",
            "Unix time at which the newest checkpoint was written.",
            status.checkpoint_at,
        )


def update_metrics(status: TrainerStatus) -> Iterator[Family]:
    """Return the families of the last update; none before the first update."""
    if status.report is None:
        return
    yield gauge("train_learning_rate", "Learning rate of the policy.", status.report.learning_rate)
    figures = status.report.figures
    yield from _optimisation_metrics(figures)
    yield from _staleness_metrics(figures)


def _optimisation_metrics(figures: Mapping[str, float]) -> Iterator[Family]:
    names = ("policy_loss", "value_loss_extrinsic", "value_loss_intrinsic", "predictor_loss")
    losses = {name.replace("_loss", ""): figures[name] for name in names}
    yield gauges("train_loss", "Mean loss of the last update, by kind.", "kind", losses)
    yield gauges(
        "train_explained_variance_ratio",
        "Explained variance of each value head: 1 is a perfect fit; values below -1 are reported as -1.",
        "head",
        {head: figures[f"explained_variance_{head}"] for head in ("extrinsic", "intrinsic")},
    )
    yield gauges(
        "train_grad_norm",
        "Mean gradient norm of the last update before clipping, by network.",
        "network",
        {network: figures[f"{network}_grad_norm"] for network in ("policy", "predictor")},
    )
    yield gauge(
        "train_approx_kl",
        "Approximate KL divergence between the policies before and during the update, in nats.",
        figures["approx_kl"],
    )
    yield gauge(
        "train_clip_fraction_ratio",
        "Share of the samples whose probability ratio is outside PPO's clip range.",
        figures["clip_fraction"],
    )
    yield gauge("train_entropy_nats", "Mean entropy of the policy, in nats.", figures["entropy"])


def _staleness_metrics(figures: Mapping[str, float]) -> Iterator[Family]:
    yield gauge(
        "train_actor_learner_log_prob_diff_max",
        "Largest difference between the log-probabilities that actor and learner compute for one action"
        " with the same weights.",
        figures["actor_learner_log_prob_diff_max"],
    )
    yield gauge(
        "train_behaviour_kl_nats",
        "Estimated KL divergence from the policy that collected the batch to the learner's policy, in nats.",
        figures["kl_behaviour"],
    )
    yield gauge(
        "train_effective_samples_ratio",
        "Effective sample size of the batch after importance weighting, as a share of its size.",
        figures["effective_samples"],
    )
    yield gauge(
        "train_weight_capped_ratio",
        "Share of the actions whose importance weight is at its cap.",
        figures["weight_capped"],
    )


def intrinsic_reward_metrics(status: TrainerStatus) -> Iterator[Family]:
    """Return the families of random network distillation (RND)."""
    yield gauge(
        "rnd_bonus_scale", "Running standard deviation by which the raw bonus is divided.", status.bonus_scale
    )
    yield gauge(
        "rnd_observations",
        "Number of observations in the normalisation statistics of RND.",
        status.observations,
    )
    if status.report is None:
        return
    figures = status.report.figures
    yield gauge(
        "rnd_intrinsic_reward_mean",
        "Mean intrinsic reward per step in the last batch.",
        figures["intrinsic_reward_mean"],
    )
    yield gauge(
        "rnd_intrinsic_reward_std",
        "Standard deviation of the intrinsic reward in the last batch.",
        figures["intrinsic_reward_std"],
    )
    yield gauge(
        "rnd_stale_bonus_shift_ratio",
        "Mean change of the bonus of stale chunks when the learner computes it with the newest predictor,"
        " in standard deviations.",
        figures["stale_bonus_shift"],
    )


def episode_metrics(episodes: EpisodeTracker) -> Iterator[Family]:
    """Return the families of episodes; means only after the first episode."""
    yield gauge("run_episodes", "Number of finished episodes of the run.", episodes.count)
    if episodes.mean is not None:
        yield gauge("episode_return_mean", "Mean unclipped return of the last 100 episodes.", episodes.mean)
        yield gauge("episode_return_max", "Largest unclipped return of an episode of the run.", episodes.best)
    yield gauge(
        "run_rooms",
        "Number of rooms that any lane has visited; 0 in games whose rooms have no number.",
        len(episodes.rooms),
    )
    lengths = list(episodes.lengths)
    if lengths:
        yield gauge(
            "episode_length_mean_steps",
            "Mean number of environment steps of the last 100 episodes.",
            sum(lengths) / len(lengths),
        )
