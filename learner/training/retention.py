"""Decides which checkpoints of a run are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Reason = Literal["newest", "best", "hourly", "daily"]

_NEWEST = 3  # a damaged one is skipped on a resume, and the one before it is used
_HOUR_SECONDS, _DAY_SECONDS = 3_600, 86_400


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """What decides whether a checkpoint is kept."""

    version: int  # completed updates
    saved_at: float  # seconds since 1970
    mean_return: float | None  # of the last hundred episodes; None if fewer have ended


def reasons_to_keep(history: Sequence[CheckpointFacts]) -> list[list[Reason]]:
    """Return why each checkpoint is kept; it is deleted if there is no reason.

    Kept are the newest three, the one with the best return (the newest of equals), the last one of each hour
    of the 24 hours before the newest, and the last one of each day (UTC). Deleting after every save keeps the
    same checkpoints as one decision at the end, because the last one of an hour or a day was once the newest.
    """
    reasons: list[list[Reason]] = [[] for _ in history]
    order = sorted(range(len(history)), key=lambda at: history[at].version)
    for at in order[-_NEWEST:]:
        reasons[at].append("newest")
    scored = [(score, at) for at in order if (score := history[at].mean_return) is not None]
    if scored:
        reasons[max(reversed(scored), key=lambda one: one[0])[1]].append("best")
    if order:
        recent = history[order[-1]].saved_at - _DAY_SECONDS
        last_of_hour = {history[at].saved_at // _HOUR_SECONDS: at for at in order}
        for at in last_of_hour.values():
            if history[at].saved_at > recent:
                reasons[at].append("hourly")
    for at in {history[at].saved_at // _DAY_SECONDS: at for at in order}.values():
        reasons[at].append("daily")
    return reasons
