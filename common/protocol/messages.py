"""Every message of the protocol, as a frozen value. `wire` gives them bytes; nothing here does I/O.

A session is named by 16 random bytes. Offsets count steps since the session began; they are the
sequence numbers. Everything the learner tells an actor about progress is absolute and cumulative,
so a lost or repeated message does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

Sid = Annotated[bytes, 16]
Digest = Annotated[bytes, 32]
FORMER_SESSIONS = 16  # that one Hello may name

Reason = Literal[
    "warmup",
    "stale",
    "old_generation",
    "surplus",
    "oversize",
    "invalid",
    "actor_shutdown",
    "actor_lost",
    "learner_rollback",
    "learner_shutdown",
    "update_failed",
    "revoked",
    "run_finished",
]
SkipReason = Literal["oversize", "actor_shutdown", "actor_lost", "old_generation", "run_finished"]
RejectCode = Literal["protocol", "environment", "lost", "full"]
# of an actor's loop
Phase = Literal["env", "policy", "messages", "bonus", "encode", "credit_wait", "weights"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Actor: joins, or returns with a new connection.

    `generation` is the learner generation that welcomed this session last (-1: none yet); `base` is the
    first offset it still holds or will produce. `former` maps the latest sessions of this actor that
    the learner gave up to the steps that each ended with, so that a learner that restarts from an
    older checkpoint can count them.
    """

    KIND: ClassVar[int] = 1
    sid: Sid
    generation: int
    host: str
    pid: int
    software: str
    base: int
    produced: int
    former: dict[Sid, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """Learner: accepts a session. The body is the run configuration as JSON, as `software` writes it."""

    KIND: ClassVar[int] = 2
    sid: Sid
    generation: int
    slot: int
    incarnation: int
    received: int
    settled: int
    credit: int
    version: int
    target: Digest
    heartbeat_ms: int
    lease_ms: int
    software: str
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Learner: refuses a session.

    "lost": the session `sid` was given up, and its accounting ends at `produced`; begin a new one.
    "full": ask again after `retry_after_ms`, or later.
    """

    KIND: ClassVar[int] = 3
    code: RejectCode
    text: str
    sid: Sid = bytes(16)
    produced: int = 0
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkMessage:
    """Actor: steps [offset, offset + steps) of the session.

    The body is the compressed observations, `observation_bytes` long, and the other arrays, compressed
    together. The run's configuration and `truncations`, the number of final observations, say what they are.
    `fresh`: every lane was reset right before the first of these steps.
    """

    KIND: ClassVar[int] = 4
    sid: Sid
    generation: int
    version: int
    offset: int
    steps: int
    produced: int
    fresh: bool
    truncations: int
    observation_bytes: int
    crc: int
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """Actor: these steps exist, and their data will not come."""

    KIND: ClassVar[int] = 5
    sid: Sid
    generation: int
    offset: int
    steps: int
    produced: int
    reason: SkipReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Learner: received and settled up to here; go on up to `credit`; `version` is the newest."""

    KIND: ClassVar[int] = 6
    generation: int
    received: int
    settled: int
    credit: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resend:
    """Learner: send again from this offset."""

    KIND: ClassVar[int] = 7
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloRequired:
    """Learner: I do not know this connection; say Hello."""

    KIND: ClassVar[int] = 8
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Actor: alive; answered by an Ack. `stats` has the seconds of each phase as `phase_NAME`."""

    KIND: ClassVar[int] = 9
    sid: Sid
    generation: int
    produced: int
    stats: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bye:
    """Actor: leaving; everything produced was sent or skipped."""

    KIND: ClassVar[int] = 10
    sid: Sid
    produced: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ByeAck:
    """Learner: every offset of yours is received or booked; go."""

    KIND: ClassVar[int] = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Learner: going down. `finished`: the run is complete, nothing will come back."""

    KIND: ClassVar[int] = 12
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsRequest:
    """Actor, weights port: pieces [piece, piece + count) of a blob.

    With `piece` 0 the newest blob is meant unless (generation, version) is held already; later pieces
    name the blob they belong to.
    """

    KIND: ClassVar[int] = 16
    name: Literal["bundle", "target"]
    generation: int
    version: int
    piece: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsMeta:
    """Learner, weights port: what the pieces that follow belong to."""

    KIND: ClassVar[int] = 17
    name: Literal["bundle", "target"]
    generation: int
    version: int
    size: int
    pieces: int
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsPiece:
    """Learner, weights port: one piece of a blob."""

    KIND: ClassVar[int] = 18
    name: Literal["bundle", "target"]
    generation: int
    version: int
    piece: int
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsUnchanged:
    """Learner, weights port: you hold the newest already."""

    KIND: ClassVar[int] = 19
    name: Literal["bundle", "target"]


Message = (
    Hello
    | Welcome
    | Reject
    | ChunkMessage
    | Skip
    | Ack
    | Resend
    | HelloRequired
    | Heartbeat
    | Bye
    | ByeAck
    | Drain
    | WeightsRequest
    | WeightsMeta
    | WeightsPiece
    | WeightsUnchanged
)
