"""The actor's side of the protocol, against a simulated learner."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import actor.service
import common
from actor.session import Session
from common.process.lifecycle import EXIT_CONFIGURATION, Fatal
from common.process.parent_link import ParentLink
from common.protocol import codec
from common.protocol import messages as m
from common.protocol.sockets import Context, DealerSocket
from tests.support.simulated_learner import WELCOME, SimulatedLearner

LOST = m.Reject(code="lost", text="begin a new session", produced=3)
FULL = m.Reject(code="full", text="expected fewer actors", retry_after_ms=40_000)
PACKED = codec.Packed(0, 0, b"")


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> SimulatedLearner:
    return SimulatedLearner.on(monkeypatch)


def test_a_session_that_a_full_learner_refuses_waits_for_the_time_in_the_message(
    learner: SimulatedLearner,
) -> None:
    """It waits up to half as much more, so that a fleet does not return at once."""
    hello = learner.hello()
    learner.tell(FULL)
    learner.wait(39.5)
    assert learner.received == []
    learner.wait(21.0)
    assert hello in learner.received


def test_a_session_that_has_joined_ignores_a_refusal_of_its_repeated_hello(learner: SimulatedLearner) -> None:
    """It sends heartbeats as before; without them its lease would end."""
    learner.welcome()
    learner.tell(FULL)
    learner.wait(2.0)
    assert any(isinstance(message, m.Heartbeat) for message in learner.received)


def test_a_session_names_former_sessions_of_the_last_hour(learner: SimulatedLearner) -> None:
    first = learner.hello()
    learner.tell(dataclasses.replace(LOST, sid=first.sid))
    learner.wait(3_700.0)
    hellos = [message for message in learner.received if isinstance(message, m.Hello)]
    assert hellos[0].former == {first.sid: 3}
    assert hellos[-1].former == {}


def test_a_session_names_the_step_at_which_each_former_session_ended(learner: SimulatedLearner) -> None:
    first = learner.hello()
    assert first.former == {}
    learner.session.count_steps(7)
    learner.tell(dataclasses.replace(LOST, sid=first.sid))
    (second,) = [message for message in learner.received if isinstance(message, m.Hello)]
    assert second.former == {first.sid: 3}
    assert second.produced == 4  # the steps that the learner does not count in the first session


def test_a_session_leaves_a_learner_that_drains_without_joining_again(learner: SimulatedLearner) -> None:
    """The learner would answer a Hello with another Drain until the time to leave is over."""
    learner.welcome()
    learner.tell(m.Drain(finished=False))
    assert learner.session.joined
    learner.received.clear()
    learner.replies.append(m.ByeAck())
    assert learner.session.leave()
    assert [type(message) for message in learner.received] == [m.Bye]


def test_chunks_are_kept_until_they_are_settled_and_sent_again_from_the_requested_offset(
    learner: SimulatedLearner,
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
    learner: SimulatedLearner,
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


def test_a_session_reconnects_after_a_lease_without_messages(learner: SimulatedLearner) -> None:
    learner.welcome(lease_ms=20_000)
    learner.wait(20.0)
    assert learner.session.counters.reconnects == 0
    learner.wait(0.5)
    assert learner.session.counters.reconnects == 1
    assert not learner.session.joined


def test_a_pause_of_the_actor_does_not_count_as_silence_of_the_learner(learner: SimulatedLearner) -> None:
    learner.welcome(lease_ms=20_000)
    learner.clock.now += 3_600.0
    learner.session.poll()
    assert learner.session.counters.reconnects == 0


def test_a_skip_covers_the_steps_since_the_last_chunk_and_is_not_sent_without_steps(
    learner: SimulatedLearner,
) -> None:
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
