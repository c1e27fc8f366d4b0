"""The state of the server at one moment, for other threads to read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from common.durations import Durations
from learner.server.ledger import Totals


class SessionStatus(NamedTuple):
    """One connected session."""

    slot: int
    host: str  # as the actor reports it, so any text is possible
    incarnation: int  # number of earlier sessions in this slot
    steps: int  # received since the session took its slot
    collecting: bool  # whether it holds credit that it has not used
    silent_seconds: float
    machine: str = "no key"  # the name of its key


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """Sessions, ledger totals and counters. The network thread replaces the whole value in one assignment.

    Counters start at 0 with the process; `totals` and `sessions_seen` are those of the run.
    """

    read_at: float = 0.0  # time.monotonic()
    totals: Totals = field(default_factory=lambda: Totals(0, 0, {}, 0))
    sessions_seen: int = 0
    actors: int = 0  # connected sessions
    heartbeat_age_max_seconds: float = 0.0
    collecting: int = 0  # sessions with credit that they have not used
    fleet: tuple[SessionStatus, ...] = ()  # of the first slots
    chunk_durations: Durations = field(default_factory=Durations)  # from credit to its chunk
    first_credit_at: float | None = None  # time.monotonic() of the first credit after the warm-up
    decoder_chunks: int = 0  # received and not taken yet
    decoder_seconds: float = 0.0  # spent on decoding
    actor_phases: dict[str, float] = field(default_factory=dict)  # seconds, sums over sessions
    messages: dict[str, int] = field(default_factory=dict)  # read on the data port, by kind
    events: dict[str, int] = field(default_factory=dict)  # of sessions, by kind
    wire_errors: dict[str, int] = field(default_factory=dict)  # messages refused, by reason
    duplicates: int = 0  # chunks received a second time
    received_bytes: int = 0
    chunk_bytes: int = 0
    chunk_steps: int = 0
    weights_bytes: int = 0
    weights_pulls: int = 0
    send_queue_full: int = 0  # messages not sent because the queue of the peer was full
    auth_refused: dict[str, int] = field(default_factory=dict)  # handshakes and messages, by reason
    violations: dict[str, int] = field(default_factory=dict)  # by the name of the key
    bans: int = 0
    ignored_messages: int = 0  # of banned peers, or beyond a quota
