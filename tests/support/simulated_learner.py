"""A simulated learner, for tests of an actor's session on a clock that the test sets."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import actor.connection
import actor.session
from actor.session import Session
from common.process.parent_link import ParentLink
from common.protocol import codec
from common.protocol import messages as m
from tests.support.clock import Clock

WELCOME = m.Welcome(
    sid=bytes(16),
    generation=0,
    slot=0,
    incarnation=0,
    received=0,
    settled=0,
    credit=0,
    version=0,
    target=bytes(32),
    heartbeat_ms=100,
    lease_ms=60_000,
    software="9.9",
    body=b'{"a_setting_of_later_releases": 1}',
)


class SimulatedLearner:
    """Stands for the socket of a session; the test sends the learner's messages and sets the time."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.received: list[m.Message] = []
        self.replies: list[m.Message] = []  # to the next messages of the session
        self._outbox: list[m.Message] = []
        self.session = Session(lambda: self, ParentLink())  # type: ignore[arg-type, return-value]
        self.session.poll()

    def send(self, parts: list[bytes]) -> bool:
        """Called by the session."""
        self.received.append(codec.decode(parts))
        if self.replies:
            self._outbox.append(self.replies.pop(0))
        return True

    def receive(self, timeout_seconds: float = 0.0, also: int | None = None) -> list[bytes] | None:
        """Called by the session."""
        return codec.encode(self._outbox.pop(0)) if self._outbox else None

    def refusal(self, known: bool = False) -> str | None:
        """Called by the session."""
        return None

    def close(self, linger_seconds: float = 0.0) -> None:
        """Called by the session."""

    def hello(self) -> m.Hello:
        """The only message so far."""
        (hello,) = self.received
        assert isinstance(hello, m.Hello)
        return hello

    def tell(self, message: m.Message) -> None:
        """Let the session handle a message; `received` then holds what it sent in return."""
        self._outbox.append(message)
        self.received.clear()
        self.session.poll()

    def welcome(self, **changes: Any) -> None:
        """Accept the session."""
        self.tell(dataclasses.replace(WELCOME, sid=self.session.sid, **changes))

    def wait(self, seconds: float) -> None:
        """Let time pass; the session polls twice a second."""
        for _ in range(round(2 * seconds)):
            self.clock.now += 0.5
            self.session.poll()

    def chunks(self) -> list[tuple[int, int]]:
        """Offset and steps of every chunk and skip in `received`."""
        return [(x.offset, x.steps) for x in self.received if isinstance(x, m.ChunkMessage | m.Skip)]

    @staticmethod
    def on(monkeypatch: pytest.MonkeyPatch) -> SimulatedLearner:
        """Make a learner and a session that read the time of one clock."""
        clock = Clock()
        for module in (actor.connection, actor.session):
            monkeypatch.setattr(module, "time", clock)
        return SimulatedLearner(clock)
