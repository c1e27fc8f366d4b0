"""Each operation of the ledger changes the accounts and the sums alike."""

from __future__ import annotations

import json

import pytest

from learner.server import ledger as ledger_module
from learner.server.ledger import Account, Ledger, Receipt, Totals
from learner.verify_ledger import problems
from tests.support.ledger_simulation import covers

A, B = b"a" * 16, b"b" * 16


def opened(*sids: bytes) -> Ledger:
    """A ledger with these sessions."""
    ledger = Ledger()
    for sid in sids:
        ledger.open(sid)
    return ledger


def test_steps_are_announced_then_pending_then_recorded() -> None:
    """At each stage a step is in flight or recorded, once."""
    ledger = opened(A)
    ledger.announce(A, 10)
    assert ledger.totals() == Totals(10, 0, {}, 10)
    assert ledger.receive(A, 0, 7) is Receipt.NEW
    assert (ledger.accounts[A].announced, ledger.accounts[A].received) == (3, 7)
    ledger.settle(A, 0, "trained")
    assert ledger.totals() == Totals(10, 7, {}, 3)
    assert ledger.receive(A, 7, 12) is Receipt.NEW  # announces steps 10 and 11
    ledger.settle(A, 7, "stale")
    assert ledger.totals() == Totals(12, 7, {"stale": 5}, 0)


def test_a_session_of_an_earlier_process_is_counted_to_its_end_once() -> None:
    """Whether a checkpoint has it or not; the steps that the checkpoint lacks are dropped."""
    ledger = opened(A)
    ledger.announce(A, 5)
    for _ in range(2):
        ledger.close_at(A, "", 9)
        ledger.close_at(B, "", 4)
    assert ledger.totals() == Totals(13, 0, {"learner_rollback": 13}, 0)
    assert covers(ledger.accounts[A], 9) and covers(ledger.accounts[B], 4)
    ledger.close_at(A, "", 7)  # less than is known
    assert ledger.accounts[A].produced == 9
    assert ledger.sessions_seen == 2


def test_the_ranges_of_the_sessions_that_ended_first_are_dropped_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not those of the sessions that began first; a checkpoint keeps the order."""
    monkeypatch.setattr(ledger_module, "_KEPT_CLOSED", 2)
    names = [bytes([number]) * 16 for number in range(4)]
    ledger = opened(*names)
    for name in (names[3], names[0]):
        ledger.close_session(name, "actor_lost")
    ledger = Ledger.from_json(ledger.to_json())
    ledger.close_session(names[1], "actor_lost")
    assert sorted(ledger.accounts) == names[:3]
    ledger.close_session(names[2], "actor_lost")
    assert sorted(ledger.accounts) == names[1:3]


def test_a_repeated_chunk_changes_nothing() -> None:
    """Pending or recorded, the second copy is a duplicate."""
    ledger = opened(A)
    ledger.receive(A, 0, 5)
    assert ledger.receive(A, 0, 5) is Receipt.DUPLICATE
    ledger.settle(A, 0, "trained")
    before = ledger.to_json()
    assert ledger.receive(A, 0, 5) is Receipt.DUPLICATE
    assert ledger.to_json() == before


def test_a_chunk_beyond_a_gap_is_not_received() -> None:
    ledger = opened(A)
    ledger.receive(A, 0, 5)
    assert ledger.receive(A, 10, 15) is Receipt.GAP
    assert ledger.accounts[A].received == 5


def test_a_chunk_that_overlaps_recorded_steps_is_not_received() -> None:
    """It begins where the received steps end, but some of its steps are recorded already."""
    ledger = opened(A)
    for start in (0, 5):
        ledger.receive(A, start, start + 5)
    ledger.settle(A, 5, "stale")
    restored = Ledger.from_json(ledger.to_json())
    assert restored.receive(A, 0, 8) is Receipt.GAP
    assert restored.totals() == Totals(10, 0, {"stale": 5}, 5)


def test_settling_out_of_order_advances_settled_only_over_the_recorded_prefix() -> None:
    """`settled` is cumulative: it waits for the chunk before."""
    ledger = opened(A)
    for start in (0, 5, 10):
        ledger.receive(A, start, start + 5)
    ledger.settle(A, 5, "surplus")
    ledger.settle(A, 10, "trained")
    assert ledger.accounts[A].settled == 0
    ledger.settle(A, 0, "trained")
    assert ledger.accounts[A].settled == 15


def test_neighbours_of_one_verdict_are_one_range() -> None:
    """In any order of settling; only the first chunk is not settled."""
    ledger = opened(A)
    for start in range(0, 40, 5):
        ledger.receive(A, start, start + 5)
    for start in (5, 15, 10, 25, 20, 35):
        ledger.settle(A, start, "trained")
    ledger.settle(A, 30, "stale")
    assert ledger.accounts[A].recorded == [(5, 30, "trained"), (30, 35, "stale"), (35, 40, "trained")]


def test_the_account_of_a_long_session_has_no_ranges_of_settled_steps() -> None:
    """So the cost of a message does not grow with the number of chunks and skips before it."""
    ledger = opened(A)
    for start in range(1_000):
        ledger.receive(A, start, start + 1)
        ledger.settle(A, start, "oversize" if start % 2 else "actor_lost")
    account = ledger.accounts[A]
    assert (account.settled, account.recorded) == (1_000, [])
    assert account.settled_steps == {"oversize": 500, "actor_lost": 500}
    text = ledger.to_json()
    assert len(json.loads(text)["accounts"][A.hex()][2]) == 2
    restored = Ledger.from_json(text)
    assert restored.accounts[A] == account
    assert restored.totals() == ledger.totals() == Totals(1_000, 0, {"actor_lost": 500, "oversize": 500}, 0)


def test_a_ledger_with_every_range_of_an_older_release_is_restored() -> None:
    """It has several ranges of one verdict before the first unsettled step, and may lack the key."""
    ranges = [[0, 5, "trained"], [5, 8, "stale"], [8, 10, "trained"], [15, 20, "trained"]]
    data = {
        "produced": 25,
        "seen": 1,
        "verdicts": {"trained": 12, "stale": 3},
        "accounts": {A.hex(): [25, False, ranges]},
    }
    ledger = Ledger.from_json(json.dumps(data))
    account = ledger.accounts[A]
    assert (account.settled, account.received, account.announced) == (10, 10, 10)
    assert (account.settled_steps, account.recorded) == ({"trained": 7, "stale": 3}, [(15, 20, "trained")])
    assert ledger.totals() == Totals(25, 12, {"stale": 3}, 10)
    assert list(problems(json.loads(ledger.to_json()), 12)) == []


def test_a_rollback_without_missing_steps_reads_no_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in each Hello of a session that only lost its connection."""
    ledger = opened(A)
    ledger.receive(A, 0, 5)
    ledger.receive(A, 5, 10)
    ledger.settle(A, 5, "stale")
    before = ledger.to_json()
    monkeypatch.setattr(Account, "gaps", None)
    for base in (0, 5, 10):
        ledger.rollback(A, base)
    assert ledger.to_json() == before


def test_closing_a_session_drops_only_steps_that_have_not_arrived() -> None:
    """Received steps are trained after their actor has exited."""
    ledger = opened(A, B)
    ledger.receive(A, 0, 5)
    ledger.announce(A, 12)
    ledger.close_session(A, "actor_lost")
    assert ledger.totals() == Totals(12, 0, {"actor_lost": 7}, 5)
    ledger.settle(A, 0, "trained")
    assert ledger.totals() == Totals(12, 5, {"actor_lost": 7}, 0)


def test_a_closed_account_does_not_change() -> None:
    """It receives no steps and no announcements, and is closed once."""
    ledger = opened(A)
    ledger.announce(A, 5)
    ledger.close_session(A, "actor_lost")
    before = ledger.to_json()
    ledger.announce(A, 9)
    ledger.close_session(A, "actor_shutdown")
    assert ledger.receive(A, 5, 9) is Receipt.CLOSED
    assert ledger.to_json() == before


def test_a_rollback_records_only_missing_steps() -> None:
    """Steps that an earlier generation settled and this one does not know are dropped."""
    ledger = opened(A)
    ledger.receive(A, 0, 5)
    ledger.rollback(A, 15)
    assert ledger.totals() == Totals(15, 0, {"learner_rollback": 10}, 5)
    assert ledger.receive(A, 15, 20) is Receipt.NEW
    ledger.rollback(A, 15)
    assert ledger.totals() == Totals(20, 0, {"learner_rollback": 10}, 10)


def test_a_rollback_leaves_the_steps_that_the_actor_still_holds() -> None:
    """The actor will send its steps from `base` on."""
    ledger = opened(A)
    ledger.announce(A, 20)
    ledger.rollback(A, 15)
    assert ledger.totals() == Totals(20, 0, {"learner_rollback": 15}, 5)
    assert ledger.receive(A, 15, 20) is Receipt.NEW


def test_a_restored_ledger_expects_pending_steps_again() -> None:
    """A checkpoint does not hold their data. A chunk that was settled out of order is not expected."""
    ledger = opened(A, B)
    for start in (0, 5, 10):
        ledger.receive(A, start, start + 5)
    ledger.settle(A, 5, "trained")
    ledger.close_session(B, "actor_lost")
    restored = Ledger.from_json(ledger.to_json())
    assert restored.totals() == ledger.totals()
    assert restored.accounts[A].received == 0
    assert restored.accounts[B].closed
    assert restored.receive(A, 0, 5) is Receipt.NEW
    assert restored.receive(A, 5, 10) is Receipt.DUPLICATE
    assert restored.receive(A, 10, 15) is Receipt.NEW
    assert restored.to_json() == ledger.to_json()


def test_a_restored_ledger_has_no_step_of_a_closed_session_in_flight() -> None:
    """Its pending steps are dropped, because a closed session sends nothing again."""
    ledger = opened(A)
    ledger.receive(A, 0, 5)
    ledger.announce(A, 7)
    ledger.close_session(A, "actor_lost")
    restored = Ledger.from_json(ledger.to_json())
    assert restored.totals() == Totals(7, 0, {"actor_lost": 2, "learner_rollback": 5}, 0)


def test_sessions_without_ranges_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of accounts is bounded; the sums and the number of sessions are not."""
    monkeypatch.setattr(ledger_module, "_KEPT_CLOSED", 3)
    ledger = Ledger()
    for number in range(7):
        sid = bytes([number]) * 16
        ledger.open(sid)
        ledger.announce(sid, 5)
        ledger.close_session(sid, "actor_lost")
    assert len(ledger.accounts) == 3
    assert ledger.sessions_seen == 7
    assert ledger.totals() == Totals(35, 0, {"actor_lost": 35}, 0)


def test_a_restored_ledger_counts_the_sessions_without_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_KEPT_CLOSED", 1)
    ledger = opened(A, B)
    ledger.close_session(A, "actor_lost")
    ledger.close_session(B, "actor_lost")
    assert ledger.accounts.keys() == {B}
    assert Ledger.from_json(ledger.to_json()).sessions_seen == 2
