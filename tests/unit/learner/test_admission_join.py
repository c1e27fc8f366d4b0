"""How a session joins, reconnects, or learns that it was closed."""

from __future__ import annotations

from common.config import Config
from common.protocol import messages as m
from tests.support.admission_harness import (
    CHUNK_STEPS,
    CONFIG,
    GENERATION,
    HUGE,
    AdmissionHarness,
    last_ack,
    sid,
)

HELLO_REQUIRED = m.HelloRequired(generation=GENERATION)


def test_a_welcome_holds_slot_progress_credit_and_configuration() -> None:
    harness = AdmissionHarness()
    harness.open_batch(version=7)
    (welcome, ack) = harness.send_hello("a")
    assert isinstance(welcome, m.Welcome)
    assert (welcome.sid, welcome.generation) == (sid("a"), GENERATION)
    assert (welcome.slot, welcome.incarnation) == (0, 0)
    assert (welcome.received, welcome.settled, welcome.credit, welcome.version) == (0, 0, CHUNK_STEPS, 7)
    assert Config.from_json(welcome.body) == CONFIG
    assert last_ack([ack]).credit == CHUNK_STEPS


def test_a_new_session_gets_the_smallest_free_slot_and_its_next_incarnation() -> None:
    harness = AdmissionHarness()
    harness.join("a", "b", "c")
    harness.send("b", m.Bye(sid=sid("b"), produced=0))
    slots = {}
    for name in ("d", "e"):
        welcome = harness.send_hello(name)[-1]
        assert isinstance(welcome, m.Welcome)
        slots[name] = (welcome.slot, welcome.incarnation)
    assert slots == {"d": (1, 1), "e": (3, 0)}


def test_a_reconnect_keeps_slot_incarnation_and_credit() -> None:
    """The session moves to its new connection; the old connection has none."""
    harness = AdmissionHarness()
    harness.join("a")
    harness.open_batch()
    harness.send_chunk("a")
    hello = m.Hello(
        sid=sid("a"),
        generation=GENERATION,
        host="host",
        pid=1,
        software="0",
        base=0,
        produced=CHUNK_STEPS + 3,
        former={},
    )
    welcome = harness.send("another connection", hello)[-1]
    assert isinstance(welcome, m.Welcome)
    assert (welcome.slot, welcome.incarnation) == (0, 0)
    assert (welcome.received, welcome.settled, welcome.credit) == (CHUNK_STEPS, 0, 2 * CHUNK_STEPS)
    assert harness.send_heartbeat("a", 0) == [HELLO_REQUIRED]
    assert harness.registry.events["join"] == 1


def test_a_message_of_no_session_of_its_connection_is_answered_with_hello_required() -> None:
    """The connection has no session, or it has another one."""
    harness = AdmissionHarness()
    assert harness.send_chunk("a") == [HELLO_REQUIRED]
    harness.join("a", "b")
    heartbeat = m.Heartbeat(sid=sid("b"), generation=GENERATION, produced=0, stats={})
    assert harness.send("a", heartbeat) == [HELLO_REQUIRED]
    assert harness.dropped() == {}


def test_a_session_that_was_closed_is_told_to_begin_a_new_one() -> None:
    """Also a session of this generation that the learner does not know."""
    harness = AdmissionHarness()
    harness.join("a")
    harness.wait(121)
    assert harness.send_chunk("a") == [HELLO_REQUIRED]
    for generation in (GENERATION, -1, GENERATION - 1):
        (reply,) = harness.send_hello("a", generation=generation)
        assert isinstance(reply, m.Reject)
        assert (reply.code, reply.sid, reply.produced) == ("lost", sid("a"), 0)
    (reply,) = harness.send_hello("unknown", generation=GENERATION)
    assert isinstance(reply, m.Reject)
    assert harness.dropped() == {}


def test_a_session_that_was_closed_is_told_how_many_of_its_steps_are_counted() -> None:
    """Its actor counts the steps beyond that in its next session."""
    harness = AdmissionHarness()
    harness.join("a")
    harness.send_heartbeat("a", 4)
    harness.wait(121)
    (reply,) = harness.send_hello("a", generation=GENERATION, produced=9)
    assert isinstance(reply, m.Reject)
    assert reply.produced == 4
    assert harness.dropped() == {"actor_lost": 4}


def test_a_session_of_another_run_is_closed_and_not_counted() -> None:
    """Its generation is later than that of this learner."""
    harness = AdmissionHarness()
    (reply,) = harness.send_hello("a", generation=GENERATION + 1, base=HUGE, produced=HUGE)
    assert isinstance(reply, m.Reject) and reply.code == "lost"
    assert harness.registry.ledger.totals().produced == 0


def test_the_status_names_the_machine_of_a_session_by_its_key() -> None:
    """A key without a name, and a session without a key, have none; slots beyond the limit are left out."""
    harness = AdmissionHarness()
    for name, key in (("a", "k1"), ("b", "k2"), ("c", ""), ("d", "k1")):
        hello = m.Hello(
            sid=sid(name), generation=-1, host="h", pid=1, software="0", base=0, produced=0, former={}
        )
        harness.deliver(name, hello, key)
    statuses = harness.registry.session_statuses(harness.now, 3, {"k1": "m1"})
    assert [(status.slot, status.machine) for status in statuses] == [(0, "m1"), (1, "no key"), (2, "no key")]
