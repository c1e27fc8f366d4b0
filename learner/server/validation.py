"""Checks of what a session claims against what the learner knows. Pure functions of numbers.

An honest actor never collects more than one chunk beyond its credit, or beyond what it had produced when it
connected. A greater claim would falsify the step accounting.
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

_PHASE_SECONDS_LIMIT = 1e12  # no phase takes longer; sums of smaller numbers stay finite
_PHASE_FIELDS = tuple(f"phase_{phase}" for phase in get_args(Phase))


def session_steps_limit(config: Config) -> int:
    """Return the most steps that are counted for one session when it returns to another generation.

    The only session of a run makes every step of it, and repeats the steps that a restart of the learner
    rolls back. Twice the steps of the run allow for that. A session with more ends without a violation.
    """
    batches = config.updates + config.max_lag + 3  # includes open batches, and batches whose update failed
    return 2 * (config.warmup_chunks * config.rollout.chunk_steps + batches * config.rollout.batch_steps)


def produced_limit(credit: int, produced_at_join: int, chunk_steps: int) -> int:
    """Return the most steps that a connected session can have produced."""
    return max(credit, produced_at_join) + chunk_steps


def usable_credit(message: Message, credit: int, generation: int) -> int:
    """Return the credit for the steps of a message: chunks and skips of another generation have none.

    So their steps are those that the session announced when it joined, and the rest of the chunk that it
    collected at that time.
    """
    if isinstance(message, ChunkMessage | Skip) and message.generation != generation:
        return 0
    return credit


def history_violation(hello: Hello) -> str | None:
    """Return why the step counts of a Hello contradict each other, or None."""
    if hello.sid in hello.former or len(hello.former) > FORMER_SESSIONS:
        return f"expected at most {FORMER_SESSIONS} former sessions without the present one, got others"
    if hello.base > hello.produced or hello.base < 0:
        return f"expected base in [0, {hello.produced}], got {hello.base}"
    return None


def session_ended(hello: Hello, generation: int, closed: bool | None, limit_steps: int) -> bool:
    """Return whether a Hello names a session that was closed, or one of another run.

    A session that returns to another generation with more than `limit_steps` cannot continue either.

    Args:
        hello: the message.
        generation: the present generation of the learner.
        closed: whether the session's account is closed; None without an account.
        limit_steps: `session_steps_limit` of the run.
    """
    if hello.generation != generation and hello.produced > limit_steps and hello.generation >= 0:
        return True
    return hello.generation >= generation if closed is None else closed or hello.generation > generation


def hello_violation(
    hello: Hello,
    generation: int,
    settled: int | None,
    other: bytes | None,
    limit_steps: int | None,
    chunk_steps: int,
) -> str | None:
    """Return why a Hello of a session that is not closed cannot be true, or None.

    Args:
        hello: the message.
        generation: the present generation of the learner.
        settled: first offset of the session that is not settled; None without an account.
        other: the session that used this connection before, or None.
        limit_steps: `produced_limit` of the session; None if it has no connection.
        chunk_steps: steps of one chunk.
    """
    if other is not None and other != hello.sid and other not in hello.former:
        return "expected one session on a connection, got a second"
    # A new session may have the steps of the chunk that it collected while its former session ended.
    if hello.generation < 0 and hello.produced > chunk_steps:
        return f"expected a new session with at most {chunk_steps} steps, got {hello.produced}"
    if hello.generation == generation and settled is not None and hello.base > settled:
        return f"expected base of at most {settled}, got {hello.base}"
    return None if limit_steps is None else _beyond(hello.produced, limit_steps)


def progress_violation(message: Message, limit_steps: int) -> str | None:
    """Return why a message of a session cannot be true, by its kind or its step counts; or None."""
    if not isinstance(message, ChunkMessage | Skip | Heartbeat | Bye):
        return f"expected a message of an actor, got {type(message).__name__}"
    produced = message.produced
    if isinstance(message, ChunkMessage | Skip):
        if min(message.offset, message.steps - 1) < 0:
            return f"expected at least 1 step from offset 0 on, got {message.steps} from {message.offset}"
        produced = max(produced, message.offset + message.steps)
    return _beyond(produced, limit_steps)


def ends_setup(message: Message, generation: int) -> bool:
    """Return whether a message shows that its actor has set up its environments and follows the policy."""
    if not isinstance(message, ChunkMessage):
        return False
    return message.version > WARMUP_VERSION and message.generation == generation


def valid_phase_times(stats: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds by phase of a heartbeat, without values that cannot be true."""
    return {
        name: stats[name] for name in _PHASE_FIELDS if 0.0 <= stats.get(name, -1.0) < _PHASE_SECONDS_LIMIT
    }


def _beyond(produced: int, limit_steps: int) -> str | None:
    return f"expected at most {limit_steps} steps, got {produced}" if produced > limit_steps else None
