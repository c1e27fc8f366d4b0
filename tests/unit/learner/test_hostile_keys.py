"""A key that spoils its grants does not slow the sessions of other keys."""

from __future__ import annotations

import pytest

from common.config import Config
from learner.server.scheduler import GrantScheduler
from tests.support import hostile_sessions as hostile
from tests.support.admission_harness import CHUNK_STEPS, CONFIG, OVERLAPPED, batch_of
from tests.support.hostile_sessions import CHUNK_SECONDS, HONEST, HOSTILE, TICK_SECONDS, Behaviour, Rivals

FORMS = [
    hostile.never_answer,
    hostile.send_other_generation,
    hostile.send_skip,
    hostile.send_stale,
    hostile.send_unreadable,
    hostile.leave_at_once,
    hostile.leave_before_overdue,
    hostile.leave_after_overdue,
    hostile.answer_before_overdue,
]
KNOWN_SECONDS, SECONDS = 60.0, 120.0


@pytest.mark.parametrize(
    ("batch_chunks", "config"), [(2, CONFIG), (8, OVERLAPPED)], ids=["small batch", "large overlapped batch"]
)
@pytest.mark.parametrize("form", FORMS, ids=[form.__name__ for form in FORMS])
def test_sixteen_hostile_sessions_do_not_slow_two_honest_ones(
    form: Behaviour, batch_chunks: int, config: Config
) -> None:
    """The rate of batches is at least 95 % of that without them, and half of it before their key is known."""
    config = batch_of(config, batch_chunks)
    alone = Rivals(config, 2, 0, form).run(SECONDS)
    rivals = Rivals(config, 2, 16, form)
    assert rivals.run(KNOWN_SECONDS) >= 0.5 * alone
    assert rivals.run(SECONDS) >= 0.95 * alone
    keys = rivals.scheduler.keys
    assert keys.median_chunk_seconds == pytest.approx(CHUNK_SECONDS, abs=1.01 * TICK_SECONDS)
    assert keys.overdue_seconds() == 2.0
    assert rivals.harness.registry.ledger.totals().imbalance == 0


def test_the_chunks_of_honest_sessions_are_all_trained_beside_sessions_that_never_answer() -> None:
    rivals = Rivals(batch_of(CONFIG, 4), 2, 16, hostile.never_answer)
    rivals.run(SECONDS)
    assert rivals.chunks[HONEST] == sum(chunk.offset // CHUNK_STEPS for chunk in rivals.sessions[:2])
    assert rivals.harness.dropped() == {}


def test_a_slow_key_gets_grants_and_does_not_slow_the_others() -> None:
    """It takes three times as long, so it is restricted, and tried again from time to time."""
    config = batch_of(CONFIG, 2)
    alone = Rivals(config, 2, 0, hostile.never_answer).run(SECONDS)
    rivals = Rivals(config, 2, 0, hostile.never_answer)
    rivals.add("slow", 2, hostile.collect(3 * CHUNK_SECONDS))
    rivals.run(SECONDS)
    assert set(rivals.harness.registry.take_restricted()) == {"slow"}
    before = rivals.chunks["slow"]
    assert rivals.run(4 * SECONDS) >= 0.95 * alone
    assert rivals.chunks["slow"] > before


def test_a_key_that_delayed_nobody_is_not_restricted_when_others_join() -> None:
    """Sessions of one key that never answer delay only their own key."""
    rivals = Rivals(batch_of(CONFIG, 4), 0, 2, hostile.collect(CHUNK_SECONDS))
    rivals.add(HOSTILE, 4, hostile.leave_after_overdue)
    rivals.run(SECONDS)
    assert rivals.scheduler.keys.restricted == frozenset()
    rivals.add(HONEST, 1, hostile.collect(CHUNK_SECONDS))
    rivals.run(1.0)
    assert rivals.scheduler.keys.restricted == frozenset()


def test_a_restricted_key_reserves_places_again_when_the_others_have_left() -> None:
    config = batch_of(CONFIG, 2)
    rivals = Rivals(config, 2, 2, hostile.leave_after_overdue)
    rivals.run(30.0)
    assert rivals.scheduler.keys.restricted == {HOSTILE}
    assert rivals.harness.registry.events["restricted"] == 0
    count = len(rivals.harness.registry.take_restricted())
    assert rivals.harness.registry.events["restricted"] == count > 0
    for session in list(rivals.sessions):
        rivals.leave(session)
    rivals.add(HOSTILE, 2, hostile.collect(CHUNK_SECONDS))
    assert rivals.run(30.0) > 0.9 * Rivals(config, 2, 0, hostile.never_answer).run(30.0)
    assert rivals.scheduler.keys.restricted == frozenset()


def test_a_fleet_of_one_key_is_served_in_the_order_of_last_grants_whatever_it_delays() -> None:
    """Also beside sessions of the same key that never answer: nothing depends on the key then."""
    orders = []
    for key in ("", HONEST):
        scheduler = GrantScheduler(batch_of(CONFIG, 4))
        scheduler.open(0)
        for slot in range(12):
            scheduler.add(bytes([slot]), slot, key)
        order = []
        for version in range(40):
            now = 5.0 * version
            served = scheduler.grant(now) + scheduler.grant(now + 4.0)
            order.append(served)
            for sid in served:
                if sid[0] % 3 and scheduler.admit(version, version, key) is None:
                    scheduler.end_grant(sid, True, now + 0.5)
            scheduler.open(version + 1)
        orders.append(order)
    assert orders[0] == orders[1]
    assert [sid[0] for sid in orders[0][0]] == [0, 1, 2, 3]


def test_the_key_with_the_fewest_open_grants_is_served_first() -> None:
    """New sessions of a key that holds grants wait for the sessions of other keys."""
    scheduler = GrantScheduler(batch_of(CONFIG, 3))
    scheduler.open(0)
    for slot in range(3):
        scheduler.add(bytes([slot]), slot, HONEST)
    assert scheduler.grant(0.0) == [bytes([0]), bytes([1]), bytes([2])]
    for slot in range(2):
        assert scheduler.admit(0, 0, HONEST) is None
        scheduler.end_grant(bytes([slot]), True, 1.0)
    for slot in range(3, 6):
        scheduler.add(bytes([slot]), slot, HOSTILE)
    scheduler.open(1)
    # The third grant of the honest key is open. One place each, then the least recently served.
    assert scheduler.grant(1.0) == [bytes([3]), bytes([4]), bytes([0])]
