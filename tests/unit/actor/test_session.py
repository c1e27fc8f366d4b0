"""The actor's side of the protocol, over a real socket."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import actor.service
import common
from actor.session import Session
from common import messages as m
from common import wire
from common.lifecycle import EXIT_CONFIGURATION, Fatal
from common.parent import Parent
from common.transport import Client, Context, Server

WELCOME = m.Welcome(
    sid=bytes(16),
    epoch=0,
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


class Desk:
    """A session, and a learner's end of its connection that a test speaks for."""

    def __init__(self, session: Session, server: Server) -> None:
        self.session, self._server = session, server
        self._peer = b""

    def hears(self, kind: type[m.Message]) -> m.Message:
        """The next message of a kind."""
        while True:
            self.session.poll(0.02)
            for peer, _, parts in self._server.receive():
                self._peer = peer
                message = wire.decode(parts)
                if isinstance(message, kind):
                    return message

    def says(self, message: m.Message) -> None:
        """Send to the session, which reads it with its next poll."""
        self._server.send(self._peer, wire.encode(message))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Context() as context:
        server = Server(context, 1 << 16)
        server.bind(f"ipc://{tmp_path}/data")
        session = Session(lambda: Client(context, f"ipc://{tmp_path}/data", 1 << 16), Parent())
        yield Desk(session, server)
        session.close()
        server.close()


def test_a_session_that_finds_no_room_asks_again_when_it_is_told_to(desk: Desk) -> None:
    """After the time of the refusal, or up to half as much more, so that a fleet does not return at once."""
    desk.hears(m.Hello)
    refused_at = time.monotonic()
    desk.says(m.Reject(code="full", text="expected fewer", retry_after_ms=700))
    desk.hears(m.Hello)
    assert time.monotonic() - refused_at >= 0.7


def test_a_session_tells_which_former_sessions_ended_where(desk: Desk) -> None:
    first = desk.hears(m.Hello)
    assert isinstance(first, m.Hello) and first.former == {}
    desk.session.stepped(7)
    desk.says(m.Reject(code="lost", text="begin a new one", sid=first.sid, produced=3))
    while True:
        second = desk.hears(m.Hello)
        assert isinstance(second, m.Hello)
        if second.sid != first.sid:
            break
    assert second.former == {first.sid: 3}
    assert second.produced == 4  # the steps that the learner does not count in the first session


def test_a_session_says_goodbye_to_a_learner_that_drains(desk: Desk) -> None:
    """It does not join again first: the learner would answer with another Drain until the time is over."""
    hello = desk.hears(m.Hello)
    assert isinstance(hello, m.Hello)
    desk.says(dataclasses.replace(WELCOME, sid=hello.sid))
    desk.hears(m.Heartbeat)
    desk.says(m.Drain(finished=False))
    desk.hears(m.Heartbeat)
    assert desk.session.joined
    desk.says(m.ByeOk())
    assert desk.session.leave()


def test_a_configuration_of_another_release_is_refused_in_one_sentence() -> None:
    """It names both releases; the exit code says that no restart helps."""
    words = f"release {common.__version__}, got one of 9.9 .* update the older"
    with pytest.raises(Fatal, match=words) as raised:
        actor.service.configuration(WELCOME)
    assert raised.value.code == EXIT_CONFIGURATION


def test_who_was_never_welcomed_leaves_without_waiting(tmp_path: Path) -> None:
    """Ctrl-C where the learner's address is wrong."""
    with Context() as context:
        session = Session(lambda: Client(context, f"ipc://{tmp_path}/nobody", 1 << 16), Parent())
        assert not session.join(0.2)
        start = time.monotonic()
        assert session.leave()
        assert time.monotonic() - start < 1.0
        session.close()
