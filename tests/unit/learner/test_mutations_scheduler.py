"""Deliberate defects of the grants of batches, each of which makes the named test fail."""

from __future__ import annotations

from functools import partial

import pytest

from learner.server import scheduler
from learner.server.key_records import KeyRecords
from learner.server.scheduler import GrantScheduler
from tests.support import hostile_sessions as hostile
from tests.support.admission_harness import CONFIG
from tests.support.mutation import Mutant, check_noticed
from tests.unit.learner import (
    test_admission_credit,
    test_hostile_credit,
    test_hostile_keys,
    test_scheduler,
)


def spoil(form: hostile.Behaviour, batch_chunks: int) -> None:
    """The test of honest sessions beside hostile ones."""
    test_hostile_keys.test_sixteen_hostile_sessions_do_not_slow_two_honest_ones(form, batch_chunks, CONFIG)


MUTANTS = [
    Mutant(
        "one batch is opened beyond the last update",
        GrantScheduler.open,
        "self._config.updates - 1",
        "self._config.updates",
        partial(test_scheduler.test_no_batch_is_opened_beyond_the_last_update, test_scheduler.UPDATES - 1),
    ),
    Mutant(
        "a new version forgets the chunks that were admitted early",
        GrantScheduler.open,
        "self.batches.get(number, OpenBatch(chunks))",
        "OpenBatch(chunks)",
        test_scheduler.test_chunks_that_were_admitted_early_still_count_when_the_next_version_is_published,
    ),
    Mutant(
        "the oldest version that may lag is stale",
        GrantScheduler.admit,
        "number - self._config.max_lag <= version",
        "number - self._config.max_lag < version",
        partial(test_scheduler.test_a_chunk_too_old_for_its_batch_or_from_the_future_is_stale, 1),
    ),
    Mutant(
        "a batch takes one chunk too many",
        GrantScheduler.admit,
        "taken >= batch.size",
        "taken > batch.size",
        test_scheduler.test_a_chunk_beyond_the_size_of_its_batch_is_surplus,
    ),
    Mutant(
        "after a failed update one chunk is asked for",
        GrantScheduler.withdraw,
        ".admitted -= chunks",
        ".admitted -= 1",
        test_scheduler.test_chunks_that_a_failed_update_drops_are_granted_again_and_no_others,
    ),
    Mutant(
        "a session that reconnects gets a second grant",
        GrantScheduler.add,
        "grant.granted_at is None",
        "True",
        test_scheduler.test_a_second_connection_gives_no_second_grant,
    ),
    Mutant(
        "a session that left keeps its grant",
        GrantScheduler.remove,
        "self._release(sid)",
        "False",
        test_scheduler.test_the_chunk_of_a_session_that_left_is_granted_again,
    ),
    Mutant(
        "a session that left still gets grants",
        GrantScheduler.remove,
        "self._idle.pop(sid, None)",
        "pass",
        test_scheduler.test_grants_go_to_the_least_recently_served_of_the_connected_sessions,
    ),
    Mutant(
        "grants go to the lowest slots",
        scheduler._in_order,
        "(grant.serial, grant.slot, sid)",
        "(0, grant.slot, sid)",
        test_scheduler.test_grants_go_to_the_least_recently_served_of_the_connected_sessions,
    ),
    Mutant(
        "more grants are given than the batch takes",
        GrantScheduler.grant,
        " - reserved[number]",
        "",
        test_scheduler.test_grants_go_to_the_least_recently_served_of_the_connected_sessions,
    ),
    Mutant(
        "a fast session gets the chunks of slower sessions",
        GrantScheduler.grant,
        "free > behind or grant.batch < number",
        "True",
        test_scheduler.test_a_fast_session_gets_no_second_chunk_of_a_batch_while_there_are_enough_sessions,
    ),
    Mutant(
        "a grant is overdue before two seconds",
        KeyRecords.overdue_seconds,
        "max(_OVERDUE_SECONDS, ",
        "min(_OVERDUE_SECONDS, ",
        test_scheduler.test_an_overdue_chunk_of_any_batch_is_granted_to_another_session,
    ),
    Mutant(
        "a grant of slow actors is overdue after two seconds",
        KeyRecords.overdue_seconds,
        "max(_OVERDUE_SECONDS, _OVERDUE_MEDIANS * median)",
        "_OVERDUE_SECONDS",
        test_admission_credit.test_a_grant_is_overdue_after_three_medians_of_the_chunk_time,
    ),
    Mutant(
        "one slow chunk delays every overdue grant",
        KeyRecords.add_chunk_seconds,
        "statistics.median(",
        "statistics.mean(",
        test_scheduler.test_one_slow_chunk_does_not_delay_the_next_overdue_grant,
    ),
    Mutant(
        "an overdue grant still reserves its place",
        GrantScheduler._release_overdue,
        "self._release(sid)\n        self",
        "break\n        self",
        test_scheduler.test_an_overdue_chunk_of_any_batch_is_granted_to_another_session,
    ),
    Mutant(
        "grants do not consider the open grants of a key",
        scheduler._in_order,
        "keys.open_grants(key)",
        "0",
        test_hostile_keys.test_the_key_with_the_fewest_open_grants_is_served_first,
    ),
    Mutant(
        "a session that ends with an open grant delays nobody",
        GrantScheduler.remove,
        "self._left.append((grant, grant.granted_at))",
        "pass",
        partial(spoil, hostile.leave_before_overdue, 2),
    ),
    Mutant(
        "a late chunk delays nobody",
        KeyRecords.on_time_seconds,
        "max(_ON_TIME_SECONDS",
        "max(1e9",
        partial(spoil, hostile.answer_before_overdue, 2),
    ),
    Mutant(
        "a chunk that is not admitted delays nobody",
        GrantScheduler.end_grant,
        "elif reserving",
        "elif False",
        partial(spoil, hostile.send_stale, 2),
    ),
    Mutant(
        "the grant of a restricted key reserves a place",
        GrantScheduler._grant_chunk,
        "if grant.spare",
        "if False",
        partial(spoil, hostile.leave_after_overdue, 8),
    ),
    Mutant(
        "a chunk answers a grant that its session does not know",
        GrantScheduler.is_answer,
        " and self._grants[sid].announced",
        "",
        partial(test_hostile_credit.test_chunks_that_a_session_sends_at_once_fill_one_place_of_a_batch, 0),
    ),
    Mutant(
        "a restricted key stays restricted when it is alone",
        KeyRecords.restrict,
        "if any(key not in over for key in self._connected) else frozenset()",
        "",
        test_hostile_keys.test_a_restricted_key_reserves_places_again_when_the_others_have_left,
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.bug for mutant in MUTANTS])
def test_the_bug_is_noticed(mutant: Mutant, request: pytest.FixtureRequest) -> None:
    check_noticed(mutant, request)
