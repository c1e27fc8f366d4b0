"""Every message of the protocol, as a frozen value; `codec` encodes them. No I/O.

Each docstring begins with the sender. A session has an id of 16 random bytes. An offset is a number of steps
since the session began; offsets are the sequence numbers. The learner reports progress to an actor in
absolute, cumulative numbers, so a lost or repeated message has no effect on the accounting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

Sid = Annotated[bytes, 16]
Digest = Annotated[bytes, 32]
FORMER_SESSIONS = 16  # the maximum number that one Hello may list

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
RejectCode = Literal["protocol", "lost", "full"]
BlobName = Literal["bundle", "target"]
# The phases of an actor's loop: loading its environments, the parts of a chunk, and waiting.
Phase = Literal["load", "env", "policy", "messages", "bonus", "encode", "core_wait", "credit_wait", "weights"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Actor: joins, or rejoins on a new connection.

    `generation` is the learner generation that last accepted this session (-1: none yet). `base` is the
    first offset that the actor still holds or will produce. `former` lists the latest sessions of this actor
    that the learner closed as lost, with the steps that it counted in each, so that a learner that resumes
    from an older checkpoint can count them.
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
    """Learner: accepts a session. The body is the run's configuration, as JSON of the release `software`."""

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

    "protocol": the message cannot be decoded, for example because of another protocol version.
    "lost": the learner closed the session `sid`, and its accounting ends at `produced`; begin a new session.
    "full": the key has its maximum number of sessions, or too many sessions join at once; retry after
    `retry_after_ms`.
    """

    KIND: ClassVar[int] = 3
    code: RejectCode
    text: str
    sid: Sid = bytes(16)
    produced: int = 0
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkMessage:
    """Actor: the data of steps [offset, offset + steps) of the session.

    The body holds the compressed observations, `observation_bytes` long, then the other arrays, compressed
    together. The run's configuration and `truncations`, the number of final observations, determine their
    shapes. With `fresh`, every lane was reset directly before the first of these steps. `crc` is the checksum
    of all other fields (`codec.checksum`).
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
    """Actor: these steps were produced, but their data will not be sent."""

    KIND: ClassVar[int] = 5
    sid: Sid
    generation: int
    offset: int
    steps: int
    produced: int
    reason: SkipReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Learner: the steps received and settled so far, the credit, and the newest version."""

    KIND: ClassVar[int] = 6
    generation: int
    received: int
    settled: int
    credit: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resend:
    """Learner: requests the chunks and skips from this offset on again."""

    KIND: ClassVar[int] = 7
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloRequired:
    """Learner: it knows no session on this connection; the actor must send a Hello."""

    KIND: ClassVar[int] = 8
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Actor: renews the lease; answered by an Ack.

    `stats` has the statistics that the actor exports; the learner reads the seconds of each phase,
    `phase_NAME`.
    """

    KIND: ClassVar[int] = 9
    sid: Sid
    generation: int
    produced: int
    stats: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bye:
    """Actor: ends the session; each of its steps was sent or skipped."""

    KIND: ClassVar[int] = 10
    sid: Sid
    produced: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ByeAck:
    """Learner: every step of the session is accounted for; the actor may exit."""

    KIND: ClassVar[int] = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Learner: shuts down. With `finished`, the run is complete, so the learner will not restart."""

    KIND: ClassVar[int] = 12
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsRequest:
    """Actor, weights port: requests the pieces [piece, piece + count) of a blob.

    With `piece` 0 it requests the newest blob, unless that has the (generation, version) of the request,
    which the actor holds already. With a later piece, (generation, version) identify the blob.
    """

    KIND: ClassVar[int] = 16
    name: BlobName
    generation: int
    version: int
    piece: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsMeta:
    """Learner, weights port: describes the blob of the pieces that follow."""

    KIND: ClassVar[int] = 17
    name: BlobName
    generation: int
    version: int
    size: int
    pieces: int
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsPiece:
    """Learner, weights port: one piece of a blob."""

    KIND: ClassVar[int] = 18
    name: BlobName
    generation: int
    version: int
    piece: int
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsUnchanged:
    """Learner, weights port: the actor holds the newest blob already."""

    KIND: ClassVar[int] = 19
    name: BlobName


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
