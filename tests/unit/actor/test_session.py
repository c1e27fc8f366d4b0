"""The actor's side of the protocol, against a simulated learner."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import actor.connection
import actor.service
import actor.session
import common
from actor.session import Session
from common.process.lifecycle import EXIT_CONFIGURATION, Fatal
from common.process.parent_link import ParentLink
from common.protocol import codec
from common.protocol import messages as m
from common.protocol.sockets import Context, DealerSocket
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
LOST = m.Reject(code="lost", text="begin a new session", produced=3)
FULL = m.Reject(code="full", text="expected fewer actors", retry_after_ms=40_000)
PACKED = codec.Packed(0, 0, b"")


class Learner:
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

    def refusal(self) -> str | None:
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


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> Learner:
    clock = Clock()
    for module in (actor.connection, actor.session):
        monkeypatch.setattr(module, "time", clock)
    return Learner(clock)


def test_a_session_that_a_full_learner_refuses_waits_for_the_time_in_the_message(learner: Learner) -> None:
    """It waits up to half as much more, so that a fleet does not return at once."""
    hello = learner.hello()
    learner.tell(FULL)
    learner.wait(39.5)
    assert learner.received == []
    learner.wait(21.0)
    assert hello in learner.received


def test_a_session_that_has_joined_ignores_a_refusal_of_its_repeated_hello(learner: Learner) -> None:
    """It sends heartbeats as before; without them its lease would end."""
    learner.welcome()
    learner.tell(FULL)
    learner.wait(2.0)
    assert any(isinstance(message, m.Heartbeat) for message in learner.received)


def test_a_session_names_former_sessions_of_the_last_hour(learner: Learner) -> None:
    first = learner.hello()
    learner.tell(dataclasses.replace(LOST, sid=first.sid))
    learner.wait(3_700.0)
    hellos = [message for message in learner.received if isinstance(message, m.Hello)]
    assert hellos[0].former == {first.sid: 3}
    assert hellos[-1].former == {}


def test_a_session_names_the_step_at_which_each_former_session_ended(learner: Learner) -> None:
    first = learner.hello()
    assert first.former == {}
    learner.session.count_steps(7)
    learner.tell(dataclasses.replace(LOST, sid=first.sid))
    (second,) = [message for message in learner.received if isinstance(message, m.Hello)]
    assert second.former == {first.sid: 3}
    assert second.produced == 4  # the steps that the learner does not count in the first session


def test_a_session_leaves_a_learner_that_drains_without_joining_again(learner: Learner) -> None:
    """The learner would answer a Hello with another Drain until the time to leave is over."""
    learner.welcome()
    learner.tell(m.Drain(finished=False))
    assert learner.session.joined
    learner.received.clear()
    learner.replies.append(m.ByeAck())
    assert learner.session.leave()
    assert [type(message) for message in learner.received] == [m.Bye]


def test_chunks_are_kept_until_they_are_settled_and_sent_again_from_the_requested_offset(
    learner: Learner,
) -> None:
    """An acknowledgement of a received chunk releases nothing: the learner may restart from a checkpoint."""
    learner.welcome(credit=100)
    session = learner.session
    for steps in (3, 5, 7):
        session.count_steps(steps)
        session.send_chunk(0, 0, True, PACKED)
    assert learner.chunks() == [(0, 3), (3, 5), (8, 7)]
    learner.tell(m.Ack(generation=0, received=15, settled=3, credit=100, version=0))
    assert session.buffer.unsettled_steps == 12
    learner.tell(m.Resend(offset=8))
    assert learner.chunks() == [(8, 7)]
    learner.tell(m.Resend(offset=0))
    assert learner.chunks() == [(3, 5), (8, 7)]
    counters = session.counters
    assert (counters.chunks_sent, counters.chunks_settled, counters.chunks_retransmitted) == (3, 1, 3)


def test_a_session_that_reconnects_resends_what_a_restarted_learner_has_not_received(
    learner: Learner,
) -> None:
    learner.welcome(credit=100)
    for steps in (3, 5):
        learner.session.count_steps(steps)
        learner.session.send_chunk(0, 0, True, PACKED)
    learner.tell(m.Ack(generation=0, received=8, settled=3, credit=100, version=0))
    learner.received.clear()
    learner.session.reconnect()
    learner.session.poll()
    assert (learner.hello().base, learner.hello().produced) == (3, 8)
    learner.welcome(generation=1, received=3, settled=3)
    assert learner.chunks() == [(3, 5)]


def test_a_session_reconnects_after_a_lease_without_messages(learner: Learner) -> None:
    learner.welcome(lease_ms=20_000)
    learner.wait(20.0)
    assert learner.session.counters.reconnects == 0
    learner.wait(0.5)
    assert learner.session.counters.reconnects == 1
    assert not learner.session.joined


def test_a_pause_of_the_actor_does_not_count_as_silence_of_the_learner(learner: Learner) -> None:
    learner.welcome(lease_ms=20_000)
    learner.clock.now += 3_600.0
    learner.session.poll()
    assert learner.session.counters.reconnects == 0


def test_a_skip_covers_the_steps_since_the_last_chunk_and_is_not_sent_without_steps(learner: Learner) -> None:
    learner.welcome()
    learner.received.clear()
    learner.session.skip("old_generation")
    assert learner.received == []
    learner.session.count_steps(5)
    learner.session.skip("old_generation")
    (skip,) = learner.received
    assert isinstance(skip, m.Skip)
    assert (skip.offset, skip.steps, skip.produced, skip.reason) == (0, 5, 5, "old_generation")


def test_a_configuration_of_another_release_is_refused_in_one_sentence() -> None:
    """The sentence names both releases; the exit code is one after which no restart helps."""
    words = f"release {common.__version__}, got one of 9.9 .* update the older"
    with pytest.raises(Fatal, match=words) as raised:
        actor.service.configuration(WELCOME)
    assert raised.value.code == EXIT_CONFIGURATION


def fail_on_wait(timeout_seconds: float = 0.0) -> None:
    pytest.fail(f"waits {timeout_seconds} s for an answer")


def test_a_session_that_was_never_accepted_leaves_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example, a user stops an actor whose --learner is wrong."""
    with Context() as context:
        session = Session(lambda: DealerSocket(context, f"ipc://{tmp_path}/nobody", 1 << 16), ParentLink())
        assert not session.join(0.2)
        monkeypatch.setattr(session, "poll", fail_on_wait)
        assert session.leave()
        session.close()
