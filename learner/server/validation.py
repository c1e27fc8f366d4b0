"""Checks of what a session says about itself against what the learner knows. Pure functions.

An honest actor never plays further than its credit, or than one chunk beyond what it had produced
when it came back. A claim beyond that would only falsify the step accounting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from common.config import Config
from common.protocol.chunk import WARMUP_VERSION
from common.protocol.messages import (
    FORMER_SESSIONS,
    Bye,
    ChunkMessage,
    Heartbeat,
    Hello,
    Message,
    Phase,
    Skip,
)
from learner.server.ledger import Account
from learner.server.sessions import SessionRecord

_SECONDS = 1e12  # no phase lasts longer; sums of what is less stay finite
_FIGURES = tuple(f"phase_{phase}" for phase in get_args(Phase))


def session_steps_limit(config: Config) -> int:
    """The most steps that are counted for one session when it returns to another learner process.

    A session that plays alone makes every step of the run, and again those that a restart of the
    learner rolls back. Twice the run allows for that. A session with more ends without an offence.
    """
    batches = config.updates + config.max_lag + 3  # with those under way, and batches whose update failed
    return 2 * (config.warmup_chunks * config.rollout.chunk_steps + batches * config.rollout.batch_steps)


def history_violation(hello: Hello) -> str | None:
    """Why the step counts of a Hello contradict themselves, or None."""
    if hello.sid in hello.former or len(hello.former) > FORMER_SESSIONS:
        return f"expected at most {FORMER_SESSIONS} former sessions without the present one, got others"
    if hello.base > hello.produced or hello.base < 0:
        return f"expected steps held to begin in [0, {hello.produced}], got {hello.base}"
    return None


def session_ended(hello: Hello, generation: int, account: Account | None, limit_steps: int) -> bool:
    """Whether a Hello is of a session that was given up, or of another run.

    A session that returns to another learner process with more steps than the run has cannot continue.
    """
    if hello.generation != generation and hello.produced > limit_steps and hello.generation >= 0:
        return True
    return (
        hello.generation >= generation if account is None else account.dead or hello.generation > generation
    )


def hello_violation(
    hello: Hello,
    generation: int,
    account: Account | None,
    seat: SessionRecord | None,
    other: SessionRecord | None,
    chunk_steps: int,
) -> str | None:
    """Why a Hello cannot be true, or None.

    Args:
        hello: of a session that is not closed.
        generation: the learner's.
        account: the step account of the session, if there is one.
        seat: its seat, if it has one.
        other: the session that used this connection before, if there is one.
        chunk_steps: steps of one chunk.
    """
    if other is not None and other.sid != hello.sid and other.sid not in hello.former:
        return "expected one session on a connection, got a second"
    if (
        hello.generation < 0 and hello.produced > chunk_steps
    ):  # what it played before it heard of its former end
        return f"expected a new session with at most {chunk_steps} steps, got {hello.produced}"
    if hello.generation == generation and account is not None and hello.base > account.settled:
        return f"expected steps from {account.settled} on to be held, got {hello.base}"
    if seat is not None and seat.peer is not None:
        return _beyond(hello.produced, seat, chunk_steps)
    return None


def progress_violation(message: Message, seat: SessionRecord, chunk_steps: int) -> str | None:
    """Why a message of a seated session, or the steps that it tells of, cannot be true; or None."""
    if not isinstance(message, ChunkMessage | Skip | Heartbeat | Bye):
        return f"expected what an actor says, got {type(message).__name__}"
    produced = message.produced
    if isinstance(message, ChunkMessage | Skip):
        if min(message.offset, message.steps - 1) < 0:
            return f"expected steps from 0 on, got {message.steps} from {message.offset}"
        produced = max(produced, message.offset + message.steps)
    return _beyond(produced, seat, chunk_steps)


def plays(message: Message, generation: int) -> bool:
    """Whether a message shows that its actor plays, and need not be silent to make environments."""
    if not isinstance(message, ChunkMessage):
        return False
    return message.version > WARMUP_VERSION and message.generation == generation


def _beyond(produced: int, seat: SessionRecord, chunk_steps: int) -> str | None:
    most = max(seat.credit, seat.returned) + chunk_steps
    return f"expected at most {most} steps, got {produced}" if produced > most else None


def valid_phase_times(stats: Mapping[str, float]) -> dict[str, float]:
    """Of a heartbeat's figures, those that the learner adds up: seconds by phase."""
    return {name: stats[name] for name in _FIGURES if 0.0 <= stats.get(name, -1.0) < _SECONDS}
