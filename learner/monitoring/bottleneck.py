"""What holds the run back, from where learner and actors spent their time of late. Pure.

In the strict mode they work in turn, and the part of a turn that is longest holds the run back. In the
overlapped one they work at once, and whoever never rests does. Either way it is the busiest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from common.protocol.chunk import WARMUP_VERSION

SIDES = {
    "starting": "Starting: nothing was measured yet",
    "nobody": "Nobody plays: start actors",
    "warmup": "Warm-up: random play fills the statistics",
    "actors": "Actors: the learner waits for their steps",
    "learner": "Learner: actors wait for credit",
    "weights": "Weights: actors wait for the newest bundle",
    "wire": "In between: learner and actors wait for each other",
    "disk": "Disk: the learner waits for its checkpoints",
}
"""In words, what each answer means."""

_PLAYING = ("env", "policy", "messages", "bonus", "encode")
_WINDOW_SECONDS = 60.0
_APART_SECONDS = 1.0  # least time between two marks of a window

Seconds = Mapping[str, float]


def busy(learner: Seconds, actors: Seconds) -> dict[str, float]:
    """The share of time that each side was at work.

    Args:
        learner: seconds by phase of the trainer, over some time.
        actors: seconds by phase, sums over all actors, over the same time.

    Returns:
        By side, in [0, 1]. `wire` is what of the learner's waiting neither play nor the fetching of
        weights explains: transport, decoding, or one actor that is slower than the others. In the
        strict mode the shares add up to 1.
    """
    whole, crew = sum(learner.values()), sum(actors.values())
    if not whole or not crew:
        return dict.fromkeys(("actors", "learner", "weights", "wire", "disk"), 0.0)
    waits, disk = learner["wait"] / whole, learner["checkpoint"] / whole
    plays = sum(actors.get(phase, 0.0) for phase in _PLAYING) / crew
    weights = actors.get("weights", 0.0) / crew
    return {
        "actors": plays,
        "learner": 1.0 - waits - disk,
        "weights": weights,
        "wire": max(0.0, waits - plays - weights),
        "disk": disk,
    }


def held_back(version: int, actors: int, shares: Mapping[str, float]) -> str:
    """The one of `SIDES` to look at, from the newest version, the number of actors and `busy`."""
    if actors == 0:
        return "nobody"
    if version == WARMUP_VERSION:
        return "warmup"
    side = max(shares, key=lambda name: shares[name])
    return side if shares[side] else "starting"


class Recent:
    """What was added to two sets of growing sums within about the last minute of the trainer's time."""

    def __init__(self) -> None:
        self._marks: deque[tuple[Seconds, Seconds]] = deque()

    def since(self, learner: Seconds, actors: Seconds) -> tuple[Seconds, Seconds]:
        """Take in the sums of now; returns what they grew by."""
        clock = sum(learner.values())
        if not self._marks or clock - sum(self._marks[-1][0].values()) >= _APART_SECONDS:
            self._marks.append((learner, actors))
        while len(self._marks) > 1 and clock - sum(self._marks[1][0].values()) >= _WINDOW_SECONDS:
            self._marks.popleft()
        before = self._marks[0]
        return _grown(before[0], learner), _grown(before[1], actors)


def _grown(before: Seconds, now: Seconds) -> Seconds:
    return {name: seconds - before.get(name, 0.0) for name, seconds in now.items()}
