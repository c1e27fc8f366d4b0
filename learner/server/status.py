"""What the network thread shows to other threads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from learner.server.ledger import Totals


class SessionStatus(NamedTuple):
    """A session in its place."""

    slot: int
    host: str  # as it says itself: not to be trusted
    incarnation: int  # how many sat there before
    steps: int  # that it sent since it sits there
    plays: bool  # has credit that it has not used
    silent_seconds: float


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The fleet and the books at one moment, for other threads to read."""

    totals: Totals = field(default_factory=lambda: Totals(0, 0, {}, 0))
    sessions_seen: int = 0
    actors: int = 0
    heartbeat_age_max_seconds: float = 0.0
    playing: int = 0  # sessions with credit that they have not used
    fleet: tuple[SessionStatus, ...] = ()  # of the first slots
    chunk_seconds: float | None = None  # usual time from credit to its chunk
    first_credit_at: float | None = None  # time.monotonic() of the first credit after the warm-up
    decoder_chunks: int = 0  # that arrived and were not taken yet
    decoder_seconds: float = 0.0  # spent on decoding
    actor_phases: dict[str, float] = field(default_factory=dict)  # seconds, sums over sessions
    messages: dict[str, int] = field(default_factory=dict)  # read on the data port, by kind
    events: dict[str, int] = field(default_factory=dict)
    wire_errors: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    received_bytes: int = 0
    chunk_bytes: int = 0
    chunk_steps: int = 0
    weights_bytes: int = 0
    weights_pulls: int = 0
    would_block: int = 0
    auth_refused: dict[str, int] = field(default_factory=dict)
    bans: int = 0
    unheard: int = 0
