"""A learning curve in at most 400 points, for the live page. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

_POINTS = 400
_EPISODES = 100


class Point(NamedTuple):
    """The state of the curve at the end of an update."""

    env_steps: int
    return_mean: float | None  # of the last 100 episodes; None before the first
    bonus: float | None  # mean intrinsic reward of the batch; None if unknown


class ThinnedCurve:
    """Keeps at most 400 points: when full, it drops every other one and adds new ones half as often."""

    def __init__(self) -> None:
        self.points: tuple[Point, ...] = ()  # replaced, never mutated: any thread may read it
        self._apart_steps = 1

    def add(self, point: Point) -> None:
        """Add a point; `env_steps` does not decrease."""
        if self.points and point.env_steps - self.points[-1].env_steps < self._apart_steps:
            return
        self.points = (*self.points, point)
        if len(self.points) > _POINTS:
            self.points = self.points[::2]
            self._apart_steps = self.points[1].env_steps - self.points[0].env_steps

    def replay(self, episodes: Iterable[tuple[int, float]]) -> None:
        """Add the points of finished episodes, given as pairs of env_steps and score, in order."""
        recent: deque[float] = deque(maxlen=_EPISODES)
        for env_steps, score in episodes:
            recent.append(score)
            self.add(Point(env_steps, sum(recent) / len(recent), None))
