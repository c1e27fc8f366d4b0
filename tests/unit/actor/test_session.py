"""The actor's side of the protocol, over a real socket."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import actor.service
import actor.session
import common
from actor.session import Session
from common.process.lifecycle import EXIT_CONFIGURATION, Fatal
from common.process.parent_link import ParentLink
from common.protocol import codec
from common.protocol import messages as m
from common.protocol.sockets import Context, DealerSocket
from tests.support.session_world import Clock

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


class Line:
    """The learner's end of a session's connection, which a test speaks for; time is the test's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.heard: list[m.Message] = []
        self._said: list[m.Message] = []
        self.session = Session(lambda: self, ParentLink())  # type: ignore[arg-type, return-value]

    def send(self, parts: list[bytes]) -> bool:
        self.heard.append(codec.decode(parts))
        return True

    def receive(self, timeout_seconds: float = 0.0, also: int | None = None) -> list[bytes] | None:
        return codec.encode(self._said.pop(0)) if self._said else None

    def refusal(self) -> str | None:
        return None

    def close(self, linger_seconds: float = 0.0) -> None:
        pass

    def says(self, message: m.Message) -> None:
        """The session reads the message, and answers it."""
        self._said.append(message)
        self.heard.clear()
        self.session.poll()

    def passes(self, seconds: float) -> None:
        """Let time pass, with a look at the connection twice a second."""
        for _ in range(round(2 * seconds)):
            self._clock.now += 0.5
            self.session.poll()


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    clock = Clock()
    monkeypatch.setattr(actor.session, "time", clock)
    line = Line(clock)
    line.session.poll()
    return line


def test_a_session_that_finds_no_room_asks_again_when_it_is_told_to(line: Line) -> None:
    """After the time of the refusal, or up to half as much more, so that a fleet does not return at once."""
    (hello,) = line.heard
    line.says(m.Reject(code="full", text="expected fewer", retry_after_ms=40_000))
    line.passes(39.5)
    assert line.heard == []
    line.passes(21.0)
    assert hello in line.heard


def test_a_session_that_has_joined_ignores_a_refusal_of_its_repeated_hello(line: Line) -> None:
    """It sends heartbeats as before, or its lease would end."""
    (hello,) = line.heard
    assert isinstance(hello, m.Hello)
    line.says(dataclasses.replace(WELCOME, sid=hello.sid))
    line.says(m.Reject(code="full", text="expected fewer", retry_after_ms=40_000))
    line.passes(2.0)
    assert any(isinstance(message, m.Heartbeat) for message in line.heard)


def test_a_session_names_former_sessions_of_the_last_hour(line: Line) -> None:
    (first,) = line.heard
    assert isinstance(first, m.Hello)
    line.says(m.Reject(code="lost", text="begin a new one", sid=first.sid, produced=3))
    line.passes(3_700.0)
    hellos = [message for message in line.heard if isinstance(message, m.Hello)]
    assert hellos[0].former == {first.sid: 3}
    assert hellos[-1].former == {}


def test_a_session_tells_which_former_sessions_ended_where(line: Line) -> None:
    (first,) = line.heard
    assert isinstance(first, m.Hello) and first.former == {}
    line.session.stepped(7)
    line.says(m.Reject(code="lost", text="begin a new one", sid=first.sid, produced=3))
    (second,) = [message for message in line.heard if isinstance(message, m.Hello)]
    assert second.former == {first.sid: 3}
    assert second.produced == 4  # the steps that the learner does not count in the first session


def test_a_session_leaves_a_learner_that_drains_without_joining_again(line: Line) -> None:
    """A Hello would be answered by another Drain, until the time to leave is over."""
    (hello,) = line.heard
    assert isinstance(hello, m.Hello)
    line.says(dataclasses.replace(WELCOME, sid=hello.sid))
    line.says(m.Drain(finished=False))
    assert line.session.joined
    line._said.append(m.ByeAck())
    assert line.session.leave()
    assert [type(message) for message in line.heard if not isinstance(message, m.Heartbeat)] == [m.Bye]


def test_a_configuration_of_another_release_is_refused_in_one_sentence() -> None:
    """It names both releases; the exit code says that no restart helps."""
    words = f"release {common.__version__}, got one of 9.9 .* update the older"
    with pytest.raises(Fatal, match=words) as raised:
        actor.service.configuration(WELCOME)
    assert raised.value.code == EXIT_CONFIGURATION


def wait(timeout_seconds: float = 0.0) -> None:
    pytest.fail(f"waits {timeout_seconds} s for an answer")


def test_who_was_never_welcomed_leaves_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C where the learner's address is wrong."""
    with Context() as context:
        session = Session(lambda: DealerSocket(context, f"ipc://{tmp_path}/nobody", 1 << 16), ParentLink())
        assert not session.join(0.2)
        monkeypatch.setattr(session, "poll", wait)
        assert session.leave()
        session.close()
