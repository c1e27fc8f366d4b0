"""Compares the steps that each process counted with its sessions in the ledger, after a soak."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.processes import Run

_HELLO = re.compile(r'"sid": "([0-9a-f]{32})".*"pid": (\d+).*"event": "hello"')


@dataclass
class Losses:
    """What explains steps that the ledger lacks."""

    killed: set[int] = field(default_factory=set)  # actor processes
    # Of each rollback, the time of the checkpoint and the time of the kill.
    rollbacks: list[tuple[float, float]] = field(default_factory=list)
    last_seen: dict[int, float] = field(default_factory=dict)  # of each actor process

    def reason(self, pid: int, steps: int, sessions: int, chunk_steps: int) -> str:
        """The reason why the ledger lacks steps that a process counted."""
        if steps < 0:
            return "no_reason"
        # A killed process may not have reported the steps of one chunk.
        if pid in self.killed and steps <= chunk_steps:
            return "killed_with_their_process"
        seen = self.last_seen.get(pid, 0.0)
        for saved, killed in self.rollbacks:
            if saved - 5.0 <= seen <= killed + 15.0 or (sessions > 1 and seen >= saved):
                return "rolled_back_with_the_learner"
        return "no_reason"


def unaccounted_steps(
    directory: Path, run: Run, accounts: Mapping[str, Any], losses: Losses, chunk_steps: int
) -> Counter[str]:
    """Steps that processes counted and the ledger lacks, or the other way round, by reason.

    Args:
        directory: of the run; its logs name the process of each session.
        run: the run, whose processes counted their steps.
        accounts: those of the last checkpoint, by session.
        losses: what explains missing steps.
        chunk_steps: steps of one chunk.
    """
    sessions: defaultdict[int, set[str]] = defaultdict(set)
    for log in directory.glob("learner*.err"):
        for sid, pid in _HELLO.findall(log.read_text()):
            sessions[int(pid)].add(sid)
    missing: Counter[str] = Counter(killed_with_their_process=0, rolled_back_with_the_learner=0, no_reason=0)
    for pid, counted in run.counted_by_process().items():
        recorded = sum(accounts[sid][0] for sid in sessions[pid] if sid in accounts)
        if counted != recorded:
            steps = counted - recorded
            missing[losses.reason(pid, steps, len(sessions[pid]), chunk_steps)] += abs(steps)
    return missing
