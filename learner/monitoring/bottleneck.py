"""Finds what limits the speed of a run, from how learner and actors spent the last minute. Pure.

With `max_lag` 0 learner and actors work in turn, so the longest part of a turn limits the
run. In the overlapped mode they work at the same time, so the side that never waits limits it. In both modes
the bottleneck is the cause with the largest share of the time.

A batch has a fixed number of chunks. Actors that have no chunk to collect do not make a batch slower, so the
time of the actors is judged per chunk that may be collected at the same time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from common.config import Config
from common.protocol.chunk import WARMUP_VERSION

CAUSES = {
    "starting": "Starting: no time has been measured yet",
    "no_actors": "No actors: none is connected",
    "loading": "Loading: actors load their environments",
    "warmup": "Warm-up: random actions fill the observation statistics",
    "actors": "Actors: the learner waits for steps; a batch has room for more",
    "collection": "Collection: the learner waits for steps; a batch has no room for more actors",
    "cores": "Cores: processes wait for a free core; more actors do not help",
    "learner": "Learner: actors wait for its updates",
    "weights": "Weights: actors wait for the newest weights",
    "mutual_wait": "Mutual waiting: learner and actors wait for each other",
    "checkpoints": "Checkpoints: the learner waits for the disk",
}
"""Every cause, and the sentence that explains it."""

MEASURED = ("collection", "cores", "loading", "learner", "weights", "mutual_wait", "checkpoints")
"""The causes that have a share of the time."""

_COLLECTING_PHASES = ("env", "policy", "messages", "bonus", "encode")
_SATURATED = 0.1  # share of the time of chunks without a core from which on the cores are the cause
_WINDOW_SECONDS = 60.0
_LONGEST_WINDOW_SECONDS = 600.0
_MIN_INTERVAL_SECONDS = 1.0  # between two samples of a window

Seconds = Mapping[str, float]


class Fleet(NamedTuple):
    """The connected actors, and the room that the learner has for them."""

    actors: int
    room: int  # the number of chunks that may be collected at the same time

    @staticmethod
    def of(config: Config, actors: int) -> Fleet:
        """Return the fleet of `actors` in a run; each of the open batches has room for its chunks."""
        return Fleet(actors, config.rollout.batch_chunks * (1 + config.max_lag))


def time_shares(learner: Seconds, actors: Seconds, fleet: Fleet) -> dict[str, float]:
    """Return the share of the time that each of the `MEASURED` causes accounts for.

    Args:
        learner: seconds by phase of the trainer, over some interval.
        actors: seconds by phase, summed over all actors, over the same interval.
        fleet: the actors, and the room for them.

    Returns:
        Shares in [0, 1]. `mutual_wait` is the part of the learner's waiting time in which actors
        neither collect steps nor load environments or weights: transport, decoding, or one actor that is
        slower than the others. With `max_lag` 0 the shares add up to 1.
    """
    learner_total, actor_total = sum(learner.values()), sum(actors.values())
    if not learner_total or not actor_total:
        return dict.fromkeys(MEASURED, 0.0)
    busy = 1.0 - actors.get("credit_wait", 0.0) / actor_total
    scale = min(max(1.0, fleet.actors / fleet.room), 1.0 / busy if busy else 1.0) / actor_total
    collecting = scale * sum(actors.get(phase, 0.0) for phase in _COLLECTING_PHASES)
    without_core = scale * actors.get("core_wait", 0.0)
    loading, weights = scale * actors.get("load", 0.0), scale * actors.get("weights", 0.0)
    waiting, checkpoints = learner["wait"] / learner_total, learner["checkpoint"] / learner_total
    learner_without_core = learner.get("core_wait", 0.0) / learner_total
    return {
        "collection": collecting,
        "cores": min(1.0, without_core + learner_without_core),
        "loading": loading,
        "learner": 1.0 - waiting - checkpoints - learner_without_core,
        "weights": weights,
        "mutual_wait": max(0.0, waiting - collecting - without_core - loading - weights),
        "checkpoints": checkpoints,
    }


def bottleneck(version: int, warmup_chunks: int, fleet: Fleet, shares: Mapping[str, float]) -> str:
    """Return the key of `CAUSES` that limits the run.

    More actors help only if a batch has room for them and every actor has a core. If chunks wait for cores
    for a noticeable part of the time, the cores are in use, and the cause is a lack of cores.

    Args:
        version: the newest policy version.
        warmup_chunks: the number of chunks of the warm-up that have arrived.
        fleet: the actors, and the room for them.
        shares: the result of `time_shares`.
    """
    if not fleet.actors:
        return "no_actors"
    if version == WARMUP_VERSION:
        return "warmup" if warmup_chunks else "loading"
    chunks = shares["collection"] + shares["cores"]  # the time that chunks take
    others = {name: share for name, share in shares.items() if name not in ("collection", "cores")}
    cause = max(others, key=lambda name: others[name])
    if others[cause] > chunks:
        return cause
    if not chunks:
        return "starting"
    if shares["cores"] >= _SATURATED * chunks:
        return "cores"
    return "actors" if fleet.actors < fleet.room else "collection"


class TimeWindow:
    """Computes the growth of cumulative times over about the last minute of the trainer's time.

    An actor reports its times after each chunk. If chunks take longer than a minute, the window is longer, so
    that it contains a report.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[Seconds, Seconds]] = deque()

    def growth(self, learner: Seconds, actors: Seconds) -> tuple[Seconds, Seconds]:
        """Add the present cumulative times, in seconds by phase; return their growth within the window."""
        now, reported = sum(learner.values()), sum(actors.values())
        if not self._samples or now - sum(self._samples[-1][0].values()) >= _MIN_INTERVAL_SECONDS:
            self._samples.append((learner, actors))
        while len(self._samples) > 1:
            age = now - sum(self._samples[1][0].values())
            has_report = reported > sum(self._samples[1][1].values())
            if age < (_WINDOW_SECONDS if has_report else _LONGEST_WINDOW_SECONDS):
                break
            self._samples.popleft()
        before = self._samples[0]
        return _difference(before[0], learner), _difference(before[1], actors)


def _difference(before: Seconds, now: Seconds) -> Seconds:
    return {name: seconds - before.get(name, 0.0) for name, seconds in now.items()}
