"""Sessions of two keys on a fake clock: honest ones, and hostile ones that spoil their grants.

Time passes in ticks. Each tick is one loop of the network thread.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.config import Config
from common.protocol import messages as m
from tests.support.admission_harness import CHUNK_STEPS, GENERATION, AdmissionHarness, sid

TICK_SECONDS = 0.1
CHUNK_SECONDS = 0.5  # that an honest session takes for a chunk
HONEST, HOSTILE = "honest", "hostile"  # the keys
UNREADABLE = b"unreadable"  # the body of a chunk that the decoder refuses
_HEARTBEAT_SECONDS = 2.0


@dataclass
class SimulatedSession:
    """A session with its own connection, as far as it knows its state."""

    name: str
    key: str
    behave: Behaviour
    joined: bool = False
    credit: int = 0
    offset: int = 0  # of the next chunk
    granted_at: float | None = None  # when it learned that it has credit for a chunk
    heartbeat_at: float = 0.0

    def on(self, message: m.Message, now: float) -> None:
        """Note the credit that the learner gives."""
        match message:
            case m.Welcome():
                self.joined = True
                self._note_credit(message.credit, now)
            case m.Ack():
                self._note_credit(message.credit, now)
            case m.Reject() | m.HelloRequired():
                self.joined = False

    def _note_credit(self, credit: int, now: float) -> None:
        self.credit = credit
        if self.granted_at is None and credit >= self.offset + CHUNK_STEPS:
            self.granted_at = now


Behaviour = Callable[["Rivals", SimulatedSession], None]


class Rivals:
    """A learner that trains each full batch at once, and the sessions of both keys."""

    def __init__(self, config: Config, honest: int, hostile: int, behave: Behaviour) -> None:
        self.harness = AdmissionHarness(config=config)
        self.scheduler = self.harness.registry.scheduler
        self.version = 0
        self.chunks: Counter[str] = Counter()  # trained, by key
        self._batch_chunks = config.rollout.batch_chunks
        self._batches: Counter[int] = Counter()
        self._names = itertools.count()
        self.sessions: list[SimulatedSession] = []
        self.add(HONEST, honest, collect(CHUNK_SECONDS))
        self.add(HOSTILE, hostile, behave)
        self.harness.open_batch(0)

    def add(self, key: str, count: int, behave: Behaviour) -> None:
        """Add sessions that join at the next tick."""
        self.sessions += [SimulatedSession(f"{key}{next(self._names)}", key, behave) for _ in range(count)]

    @property
    def now(self) -> float:
        """The time of this tick."""
        return self.harness.now

    def run(self, seconds: float) -> float:
        """Let time pass; return the batches per second."""
        before = self.version
        for _ in range(round(seconds / TICK_SECONDS)):
            self._tick()
        return (self.version - before) / seconds

    def send(self, session: SimulatedSession, message: m.Message) -> None:
        """Send a message of a session."""
        self.harness.deliver(session.name, message, session.key)

    def send_chunk(self, session: SimulatedSession, **facts: Any) -> None:
        """Send the next chunk of a session, with some facts wrong."""
        message = self.harness.chunk(session.name, session.offset, **({"version": self.version} | facts))
        self.send(session, message)
        session.offset += CHUNK_STEPS
        session.granted_at = None

    def leave(self, session: SimulatedSession) -> None:
        """End a session with Bye."""
        self.send(session, m.Bye(sid=sid(session.name), produced=session.offset))
        self.sessions.remove(session)

    def rejoin(self, session: SimulatedSession) -> None:
        """End a session, and begin another one on another connection at once."""
        self.leave(session)
        self.add(session.key, 1, session.behave)

    def _tick(self) -> None:
        self.harness.now += TICK_SECONDS
        for session in list(self.sessions):
            if not session.joined:
                hello = m.Hello(
                    sid=sid(session.name),
                    generation=-1,
                    host="host",
                    pid=1,
                    software="0",
                    base=0,
                    produced=0,
                    former={},
                )
                self.send(session, hello)
            elif self.now >= session.heartbeat_at:
                session.heartbeat_at = self.now + _HEARTBEAT_SECONDS
                beat = m.Heartbeat(
                    sid=sid(session.name), generation=GENERATION, produced=session.offset, stats={}
                )
                self.send(session, beat)
            elif session.granted_at is not None:
                session.behave(self, session)
        self.harness.registry.tick(self.now)
        self.harness.replies += self.harness.registry.acknowledge()
        self._train()
        self._read_replies()

    def _train(self) -> None:
        """Train every full batch."""
        for chunk in self.harness.chunks:
            name, offset = chunk.message.sid, chunk.message.offset
            if chunk.message.body == UNREADABLE:
                self.harness.registry.reject_chunk(name, offset, chunk.batch, self.now)
                continue
            self._batches[chunk.batch] += 1
            self.chunks[name.decode().rstrip("0123456789 ")] += 1
            self.harness.registry.settle([(name, offset)], "trained")
        self.harness.chunks.clear()
        while self._batches[self.version] >= self._batch_chunks:
            self.version += 1
            self.harness.registry.open(self.version, self.now)
            self.harness.replies += self.harness.registry.acknowledge()

    def _read_replies(self) -> None:
        by_name = {session.name: session for session in self.sessions}
        for peer, message in self.harness.replies:
            if peer.decode() in by_name:
                by_name[peer.decode()].on(message, self.now)
        self.harness.replies.clear()


def collect(seconds: float) -> Behaviour:
    """Answer each grant with a full chunk after a time."""

    def behave(rivals: Rivals, session: SimulatedSession) -> None:
        assert session.granted_at is not None
        if rivals.now >= session.granted_at + seconds - TICK_SECONDS / 2:
            rivals.send_chunk(session)

    return behave


def never_answer(rivals: Rivals, session: SimulatedSession) -> None:
    """Keep the grant, and send heartbeats only."""


def send_other_generation(rivals: Rivals, session: SimulatedSession) -> None:
    """Answer with a chunk of an earlier generation."""
    rivals.send_chunk(session, generation=GENERATION - 1)


def send_skip(rivals: Rivals, session: SimulatedSession) -> None:
    """Answer with a skip of as many steps as a chunk has."""
    produced = session.offset + CHUNK_STEPS
    skip = m.Skip(
        sid=sid(session.name),
        generation=GENERATION,
        offset=session.offset,
        steps=CHUNK_STEPS,
        produced=produced,
        reason="old_generation",
    )
    rivals.send(session, skip)
    session.offset, session.granted_at = produced, None


def send_stale(rivals: Rivals, session: SimulatedSession) -> None:
    """Answer with a chunk of a version that no batch admits."""
    rivals.send_chunk(session, version=-5)


def send_unreadable(rivals: Rivals, session: SimulatedSession) -> None:
    """Answer with a chunk that the decoder refuses after it was admitted."""
    rivals.send_chunk(session, body=UNREADABLE)


def leave_at_once(rivals: Rivals, session: SimulatedSession) -> None:
    """End the session as soon as it has a grant, and join again."""
    rivals.rejoin(session)


def _overdue_soon(rivals: Rivals, session: SimulatedSession) -> bool:
    assert session.granted_at is not None
    overdue_seconds = rivals.scheduler.keys.overdue_seconds()
    limit = 2.0 if overdue_seconds is None else overdue_seconds
    return rivals.now >= session.granted_at + limit - 2 * TICK_SECONDS


def leave_before_overdue(rivals: Rivals, session: SimulatedSession) -> None:
    """End the session just before its grant is overdue, and join again."""
    if _overdue_soon(rivals, session):
        rivals.rejoin(session)


def answer_before_overdue(rivals: Rivals, session: SimulatedSession) -> None:
    """Answer with a full chunk just before the grant is overdue."""
    if _overdue_soon(rivals, session):
        rivals.send_chunk(session)


def leave_after_overdue(rivals: Rivals, session: SimulatedSession) -> None:
    """End the session after its grant is overdue, and join again."""
    assert session.granted_at is not None
    if rivals.now >= session.granted_at + 3.0:
        rivals.rejoin(session)
