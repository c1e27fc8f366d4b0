"""A model of the learner's step accounting for tests, with one byte for the fate of each step.

Written from docs/protocol.md, docs/security.md and the docstrings of `common.protocol.messages`. It reads
only messages, grants and sums of the product: it does not decide which session is granted a chunk.
`tests.support.session_oracle` has the rules of single messages.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import get_args

from common.config import Config
from common.protocol import messages as m
from learner.server.ledger import Totals
from learner.server.registry import Replies

LEASE_SECONDS, SETUP_SECONDS, RESTORED_SECONDS = 10.0, 120.0, 30.0
_FATES = ("announced", "pending", "trained", *get_args(m.Reason))  # a step has one at a time
_CODES = {fate: bytes([code]) for code, fate in enumerate(_FATES)}
_ANNOUNCED, _PENDING = _CODES["announced"], _CODES["pending"]


@dataclass
class ModelSession:
    """A session: the fate of each of its steps, and its state in the present generation."""

    key: str
    fates: bytearray = field(default_factory=bytearray)
    closed: bool = False
    peer: bytes | None = None  # its connection
    joined_steps: int = 0  # produced when it joined
    credit: int = 0  # as it was told
    granted: bool = False  # it was granted a chunk that has not arrived
    expires: float = 0.0
    damaged_copies: int = 0  # of its next chunk
    late_violation: bool = False  # a chunk that was admitted could not be decoded
    _counted: tuple[bytes, Counter[int]] = (b"", Counter())  # the newest result of `counts`

    @property
    def produced(self) -> int:
        """The steps that it claims."""
        return len(self.fates)

    @property
    def received(self) -> int:
        """The first step that has not arrived."""
        at = self.fates.find(_ANNOUNCED)
        return len(self.fates) if at < 0 else at

    @property
    def settled(self) -> int:
        """The first step that is neither trained nor dropped."""
        at = self.fates.find(_PENDING, 0, self.received)
        return self.received if at < 0 else at

    def is_free(self, start: int, stop: int) -> bool:
        """Whether no step of [start, stop) has arrived."""
        return self.fates.count(_ANNOUNCED, start, stop) == len(self.fates[start:stop])

    def counts(self) -> Counter[int]:
        """The number of steps by the code of their fate."""
        if self.fates != self._counted[0]:
            self._counted = bytes(self.fates), Counter(self.fates)
        return self._counted[1]

    def claim(self, produced: int) -> None:
        """Raise the number of steps."""
        self.fates += _ANNOUNCED * max(0, produced - len(self.fates))

    def give(self, start: int, stop: int, fate: str, before: str = "announced") -> None:
        """Give a fate to steps, each of which has the fate `before`."""
        assert self.fates[start:stop] == _CODES[before] * (stop - start), "a step counted twice"
        self.fates[start:stop] = _CODES[fate] * (stop - start)

    def give_rest(self, stop: int, fate: str, before: str = "announced") -> None:
        """Give a fate to all steps of [0, stop) with the fate `before`."""
        self.fates[:stop] = self.fates[:stop].replace(_CODES[before], _CODES[fate])

    def close(self, reason: str) -> None:
        """Close the session: steps that have not arrived are dropped."""
        self.give_rest(len(self.fates), reason)
        self.closed, self.peer, self.granted = True, None, False


class RunModel:
    """The sessions and the open batches of a run, in one generation of its learner."""

    def __init__(self, config: Config, sessions_per_key: int, generation: int = 0) -> None:
        self.config, self.sessions_per_key, self.generation = config, sessions_per_key, generation
        self.chunk_steps, self.batch_chunks = config.rollout.chunk_steps, config.rollout.batch_chunks
        batches = config.updates + config.max_lag + 3
        # The most steps that one session of the run can have produced.
        self.limit_steps = 2 * (
            config.warmup_chunks * self.chunk_steps + batches * config.rollout.batch_steps
        )
        self.sessions: dict[bytes, ModelSession] = {}
        self.batches: dict[int, int] = {}  # open batch -> chunks admitted
        self.version = -1
        self.draining: m.Drain | None = None

    def restored(self, generation: int, now: float) -> RunModel:
        """The state that a checkpoint keeps: no chunk that was pending, and no connection."""
        model = RunModel(self.config, self.sessions_per_key, generation)
        for sid, session in self.sessions.items():
            one = ModelSession(session.key, session.fates[:], session.closed, expires=now + RESTORED_SECONDS)
            one.give_rest(one.produced, "learner_rollback" if one.closed else "announced", before="pending")
            model.sessions[sid] = one
        return model

    def live(self) -> dict[bytes, ModelSession]:
        """The sessions that are not closed."""
        return {sid: session for sid, session in self.sessions.items() if not session.closed}

    # The trainer and the main thread.

    def open(self, version: int) -> None:
        """Open the batches of a published version."""
        self.version = version
        last = max(version, min(version + self.config.max_lag, self.config.updates - 1))
        self.batches = {number: self.batches.get(number, 0) for number in range(version, last + 1)}

    def settle(self, sid: bytes, start: int, fate: str) -> None:
        """Give the pending chunk that begins at `start` its last fate."""
        self.sessions[sid].give(start, start + self.chunk_steps, fate, before="pending")

    def withdraw(self, batch: int, chunks: int = 1) -> None:
        """Free places of a batch."""
        if batch in self.batches:
            self.batches[batch] -= chunks

    def drain(self, finished: bool) -> None:
        """Close every batch; sessions may still leave."""
        self.draining, self.batches = m.Drain(finished=finished), {}

    @property
    def ending(self) -> str:
        """The reason of steps that arrive after the drain, or never."""
        assert self.draining is not None
        return "run_finished" if self.draining.finished else "learner_shutdown"

    def close_remaining(self) -> None:
        """Close every session, and drop what is pending."""
        for session in self.sessions.values():
            session.give_rest(session.produced, self.ending, before="pending")
            if not session.closed:
                session.close(self.ending)

    # Time.

    def extend(self, seconds: float) -> None:
        """Extend every lease by a stall of the learner."""
        for session in self.sessions.values():
            session.expires += seconds

    def expire(self, live: set[bytes], now: float) -> None:
        """Close the sessions whose lease has ended; the learner must have closed the same ones."""
        for sid, session in self.live().items():
            assert (sid in live) == (now <= session.expires), f"a lease until {session.expires:.2f}: {sid!r}"
            if sid not in live:
                session.close("actor_lost")

    # What sessions are told, and the sums.

    def on_grants(self, sids: list[bytes]) -> None:
        """Take the grants of the scheduler; a session has at most one for a chunk that has not arrived."""
        for sid in sids:
            session = self.sessions[sid]
            assert not session.granted, "a second grant before the chunk of the first"
            assert session.peer is not None, "a grant without a connection"
            session.granted = True

    def on_credit(self, replies: Replies) -> None:
        """Check Acks and Welcomes, which tell the credit that follows from grants."""
        peers = {session.peer: session for session in self.live().values()}
        for peer, reply in replies:
            if not isinstance(reply, m.Ack | m.Welcome):
                continue
            session = peers[peer]
            assert (reply.received, reply.settled) == (session.received, session.settled), reply
            assert (reply.generation, reply.version) == (self.generation, self.version), reply
            assert reply.credit >= session.credit, f"credit fell from {session.credit}: {reply}"
            most = session.credit
            if session.granted:
                most = max(most, session.received + self.chunk_steps, session.produced + self.chunk_steps)
            assert reply.credit <= most, f"expected credit of at most {most}: {reply}"
            session.credit = reply.credit

    def check_totals(self, totals: Totals) -> None:
        """Compare the sums of the ledger with the fates of all steps."""
        counts = Counter[int]()
        for session in self.sessions.values():
            for code, steps in session.counts().items():
                counts[code] += steps
        fates = {_FATES[code]: steps for code, steps in counts.items()}
        in_flight, trained = fates.pop("announced", 0) + fates.pop("pending", 0), fates.pop("trained", 0)
        assert totals.imbalance == 0, totals
        assert (totals.trained, totals.in_flight) == (trained, in_flight), (totals, trained, in_flight)
        assert {reason: steps for reason, steps in totals.dropped.items() if steps} == fates, (totals, fates)
