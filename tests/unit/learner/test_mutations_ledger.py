"""Deliberate defects of the step ledger, each of which makes the named test fail."""

from __future__ import annotations

import pytest

from learner.server.ledger import Account, Ledger
from tests.support.mutation import Mutant, check_noticed
from tests.unit.learner import test_ledger

MUTANTS = [
    Mutant(
        "neighbours of two verdicts become one range",
        Account.record,
        "after[0] == stop and after[2] == verdict",
        "after[0] == stop",
        test_ledger.test_neighbours_of_one_verdict_are_one_range,
    ),
    Mutant(
        "steps right after a recorded range are not free",
        Account.is_free,
        "self.recorded[at][1] <= start",
        "self.recorded[at][1] < start",
        test_ledger.test_a_restored_ledger_expects_pending_steps_again,
    ),
    Mutant(
        "a range that begins at the offset does not count",
        Account._recorded_until,
        "start > offset",
        "start >= offset",
        test_ledger.test_settling_out_of_order_advances_settled_only_over_the_recorded_prefix,
    ),
    Mutant(
        "the ranges of settled steps are kept",
        Account.advance,
        "del self.recorded[:count]",
        "pass",
        test_ledger.test_the_account_of_a_long_session_has_no_ranges_of_settled_steps,
    ),
    Mutant(
        "settled steps are not received",
        Account.advance,
        "max(self.received, self.settled)",
        "self.received",
        test_ledger.test_a_rollback_leaves_the_steps_that_the_actor_still_holds,
    ),
    Mutant(
        "a rollback reads every range of a session that lost its connection",
        Ledger.rollback,
        "base <= account.received",
        "base <= 0",
        test_ledger.test_a_rollback_without_missing_steps_reads_no_range,
        error=TypeError,
    ),
    Mutant(
        "steps recorded beyond a gap are in flight as well",
        Account.announced.fget,  # type: ignore[attr-defined]  # mypy sees the property's value
        " - sum(stop - start for start, stop, _ in later)",
        "",
        test_ledger.test_a_restored_ledger_expects_pending_steps_again,
    ),
    Mutant(
        "an announcement adds the sum instead of the difference",
        Ledger.announce,
        "produced - account.produced",
        "produced",
        test_ledger.test_steps_are_announced_then_pending_then_recorded,
    ),
    Mutant(
        "closed accounts take announcements",
        Ledger.announce,
        "not account.closed and produced",
        "produced",
        test_ledger.test_a_closed_account_does_not_change,
    ),
    Mutant(
        "only settled steps make a duplicate",
        Ledger.receive,
        "start < account.received",
        "start < account.settled",
        test_ledger.test_a_repeated_chunk_changes_nothing,
    ),
    Mutant(
        "a chunk beyond a gap is taken",
        Ledger.receive,
        "start > account.received or not account.is_free(start, stop)",
        "not account.is_free(start, stop)",
        test_ledger.test_a_chunk_beyond_a_gap_is_not_received,
    ),
    Mutant(
        "a chunk is taken that reaches into recorded steps",
        Ledger.receive,
        "start > account.received or not account.is_free(start, stop)",
        "start > account.received",
        test_ledger.test_a_chunk_that_overlaps_recorded_steps_is_not_received,
    ),
    Mutant(
        "settled steps stay pending",
        Ledger.settle,
        "account.pending.pop(start)",
        "account.pending[start]",
        test_ledger.test_steps_are_announced_then_pending_then_recorded,
    ),
    Mutant(
        "a rollback counts what the actor still holds",
        Ledger.rollback,
        "account.gaps(base)",
        "account.gaps(account.produced)",
        test_ledger.test_a_rollback_leaves_the_steps_that_the_actor_still_holds,
    ),
    Mutant(
        "a closed session counts only up to what was received",
        Ledger._close,
        "account.gaps(account.produced)",
        "account.gaps(account.received)",
        test_ledger.test_closing_a_session_drops_only_steps_that_have_not_arrived,
    ),
    Mutant(
        "a checkpoint leaves steps of closed sessions in flight",
        Ledger.from_json,
        'ledger._close(account, "learner_rollback")',
        "account.advance()",
        test_ledger.test_a_restored_ledger_has_no_step_of_a_closed_session_in_flight,
    ),
    Mutant(
        "the number of sessions begins again at a restart",
        Ledger.from_json,
        'data["produced"], data["seen"]',
        'data["produced"], len(data["accounts"])',
        test_ledger.test_a_restored_ledger_counts_the_sessions_without_ranges,
    ),
    Mutant(
        "pending steps are not in flight",
        Ledger.totals,
        "account.announced + sum(stop - start for start, stop in account.pending.items())",
        "account.announced",
        test_ledger.test_closing_a_session_drops_only_steps_that_have_not_arrived,
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.bug for mutant in MUTANTS])
def test_the_bug_is_noticed(mutant: Mutant, request: pytest.FixtureRequest) -> None:
    check_noticed(mutant, request)
