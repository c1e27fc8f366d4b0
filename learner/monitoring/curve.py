"""A run's learning curve in few points, for whoever looks in between. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

_POINTS = 400
_GAMES = 100


class Point(NamedTuple):
    """At the end of an update."""

    env_steps: int
    return_mean: float | None  # of the last hundred games; None before the first
    bonus: float | None  # mean intrinsic reward of the batch; None where it is not known


class Curve:
    """At most 400 points: where they are full every other one goes, and new ones come half as often."""

    def __init__(self) -> None:
        self.points: tuple[Point, ...] = ()  # replaced, never mutated: any thread may read it
        self._apart_steps = 1

    def add(self, point: Point) -> None:
        """Take in a point; `env_steps` does not fall."""
        if self.points and point.env_steps - self.points[-1].env_steps < self._apart_steps:
            return
        self.points = (*self.points, point)
        if len(self.points) > _POINTS:
            self.points = self.points[::2]
            self._apart_steps = self.points[1].env_steps - self.points[0].env_steps

    def replay(self, games: Iterable[tuple[int, float]]) -> None:
        """Take in finished games, as pairs of env_steps and score, in order."""
        recent: deque[float] = deque(maxlen=_GAMES)
        for env_steps, score in games:
            recent.append(score)
            self.add(Point(env_steps, sum(recent) / len(recent), None))
