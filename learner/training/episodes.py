"""Finished episodes: their scores, which are sums of raw rewards, and their lengths."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from learner.interface import DecodedChunk

WINDOW = 100  # episodes whose mean score is reported


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished episode."""

    slot: int
    lane: int
    steps: int
    score: float  # undiscounted sum of raw rewards


@dataclass(slots=True)
class _Lanes:
    """Running sums of the lanes of one incarnation of a slot."""

    incarnation: int
    next_offset: int
    score: npt.NDArray[np.float64]
    steps: npt.NDArray[np.int64]
    whole: npt.NDArray[np.bool_]  # False until the next end if the beginning was missed


@dataclass(slots=True)
class EpisodeTracker:
    """Tracks the episodes of every lane. An episode is reported if all of its steps were trained on."""

    recent: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    lengths: deque[int] = field(default_factory=lambda: deque(maxlen=WINDOW))  # in steps; not checkpointed
    count: int = 0
    best: float = float("-inf")
    rooms: set[int] = field(default_factory=set)  # that any lane has visited; see `Chunk.room`
    _lanes: dict[int, _Lanes] = field(default_factory=dict)

    def advance(self, decoded: DecodedChunk) -> list[Episode]:
        """Add one chunk; return the episodes that ended in it."""
        chunk = decoded.chunk
        steps, lanes = chunk.reward.shape
        state = self._lanes.get(decoded.slot)
        continues = (
            state is not None
            and not decoded.fresh
            and (state.incarnation, state.next_offset) == (decoded.incarnation, decoded.offset)
        )
        if state is None or not continues:
            whole = np.full(lanes, decoded.fresh)
            zeros = np.zeros(lanes), np.zeros(lanes, np.int64)
            state = self._lanes[decoded.slot] = _Lanes(decoded.incarnation, 0, *zeros, whole)
        self.rooms |= set(np.unique(chunk.room).tolist()) - {0}
        state.next_offset = decoded.offset + steps * lanes
        ended = []
        for t in range(steps):
            state.score += chunk.reward[t]
            state.steps += 1
            for lane in np.flatnonzero(chunk.done[t]):
                if state.whole[lane]:
                    ended.append(
                        Episode(decoded.slot, int(lane), int(state.steps[lane]), float(state.score[lane]))
                    )
                state.score[lane], state.steps[lane], state.whole[lane] = 0.0, 0, True
        for episode in ended:
            self.recent.append(episode.score)
            self.lengths.append(episode.steps)
            self.best = max(self.best, episode.score)
        self.count += len(ended)
        return ended

    @property
    def mean(self) -> float | None:
        """Mean score of the last hundred episodes; None before the first end."""
        return float(np.mean(self.recent)) if self.recent else None

    def state(self) -> dict[str, object]:
        """Return the JSON of a checkpoint, without running episodes: a resumed run resets every lane."""
        best = self.best if self.count else None
        return {"recent": list(self.recent), "count": self.count, "best": best, "rooms": sorted(self.rooms)}

    def load(self, state: dict[str, object]) -> None:
        """Restore `state`."""
        recent, count, best = state["recent"], state["count"], state["best"]
        rooms = state.get("rooms", [])  # absent in checkpoints of earlier releases
        assert isinstance(recent, list) and isinstance(count, int) and isinstance(rooms, list)
        self.recent.extend(recent)
        self.rooms.update(rooms)
        self.count = count
        self.best = float(best) if isinstance(best, (int, float)) else float("-inf")
