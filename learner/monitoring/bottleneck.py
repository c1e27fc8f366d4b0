"""Finds what limits the speed of a run, from how learner and actors spent the last minute. Pure.

With `max_lag` 0 learner and actors work in turn, so the longest part of a turn limits the
run. In the overlapped mode they work at the same time, so the side that never waits limits it. In both modes
the bottleneck is the cause with the largest share of the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from common.protocol.chunk import WARMUP_VERSION

CAUSES = {
    "starting": "Starting: no time has been measured yet",
    "no_actors": "No actors: start some",
    "warmup": "Warm-up: random actions fill the observation statistics",
    "actors": "Actors: the learner waits for their steps",
    "learner": "Learner: actors wait for credit",
    "weights": "Weights: actors wait for the newest weights",
    "mutual_wait": "Mutual waiting: learner and actors wait for each other",
    "checkpoints": "Checkpoints: the learner waits for the disk",
}
"""Every cause, and the sentence that explains it."""

_COLLECTING_PHASES = ("env", "policy", "messages", "bonus", "encode")
_WINDOW_SECONDS = 60.0
_MIN_INTERVAL_SECONDS = 1.0  # between two samples of a window

Seconds = Mapping[str, float]


def time_shares(learner: Seconds, actors: Seconds) -> dict[str, float]:
    """Return the share of the time that each possible cause accounts for.

    Args:
        learner: seconds by phase of the trainer, over some interval.
        actors: seconds by phase, summed over all actors, over the same interval.

    Returns:
        A share in [0, 1] for each cause that can be measured. `mutual_wait` is the part of the learner's
        waiting time in which actors neither collect steps nor fetch weights: transport, decoding, or one
        actor that is slower than the others. With `max_lag` 0 the shares add up to 1.
    """
    learner_total, actor_total = sum(learner.values()), sum(actors.values())
    if not learner_total or not actor_total:
        return dict.fromkeys(("actors", "learner", "weights", "mutual_wait", "checkpoints"), 0.0)
    waiting, checkpoints = learner["wait"] / learner_total, learner["checkpoint"] / learner_total
    collecting = sum(actors.get(phase, 0.0) for phase in _COLLECTING_PHASES) / actor_total
    weights = actors.get("weights", 0.0) / actor_total
    return {
        "actors": collecting,
        "learner": 1.0 - waiting - checkpoints,
        "weights": weights,
        "mutual_wait": max(0.0, waiting - collecting - weights),
        "checkpoints": checkpoints,
    }


def bottleneck(version: int, actors: int, shares: Mapping[str, float]) -> str:
    """Return the key of `CAUSES` that limits the run.

    Args:
        version: the newest policy version.
        actors: the number of connected actors.
        shares: the result of `time_shares`.
    """
    if actors == 0:
        return "no_actors"
    if version == WARMUP_VERSION:
        return "warmup"
    cause = max(shares, key=lambda name: shares[name])
    return cause if shares[cause] else "starting"


class TimeWindow:
    """Computes the growth of cumulative times over about the last minute of the trainer's time."""

    def __init__(self) -> None:
        self._samples: deque[tuple[Seconds, Seconds]] = deque()

    def growth(self, learner: Seconds, actors: Seconds) -> tuple[Seconds, Seconds]:
        """Add the present cumulative times, in seconds by phase; return their growth within the window."""
        now = sum(learner.values())
        if not self._samples or now - sum(self._samples[-1][0].values()) >= _MIN_INTERVAL_SECONDS:
            self._samples.append((learner, actors))
        while len(self._samples) > 1 and now - sum(self._samples[1][0].values()) >= _WINDOW_SECONDS:
            self._samples.popleft()
        before = self._samples[0]
        return _difference(before[0], learner), _difference(before[1], actors)


def _difference(before: Seconds, now: Seconds) -> Seconds:
    return {name: seconds - before.get(name, 0.0) for name, seconds in now.items()}
