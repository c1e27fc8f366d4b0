"""Deliberate defects of admission, leases and the registry, each of which makes the named test fail."""

from __future__ import annotations

from functools import partial

import pytest

from learner.server import registry, validation
from learner.server.admission import Admission
from learner.server.network import Network
from learner.server.registry import SessionRegistry
from learner.server.sessions import FlowState, SessionTable
from tests.support.mutation import Mutant, check_noticed
from tests.unit.learner import (
    test_admission_chunks,
    test_admission_credit,
    test_admission_leases,
    test_admission_leave,
    test_hostile_sessions,
    test_network,
)

MUTANTS = [
    Mutant(
        "a heartbeat ends the time to build environments",
        SessionTable.renew,
        "now + LEASE_SECONDS if setup_ended else max(session.expires, now + LEASE_SECONDS)",
        "now + LEASE_SECONDS",
        test_admission_leases.test_a_new_session_has_two_minutes_to_build_its_environments,
    ),
    Mutant(
        "a session that plays keeps the time to build environments",
        SessionTable.renew,
        "now + LEASE_SECONDS if setup_ended else max(session.expires, now + LEASE_SECONDS)",
        "max(session.expires, now + LEASE_SECONDS)",
        test_admission_leases.test_silence_ends_a_session_and_drops_the_steps_that_it_announced,
    ),
    Mutant(
        "a stall of the learner counts as silence of its actors",
        SessionTable.extend_by_stall,
        "session.expires += stall",
        "pass",
        test_admission_leases.test_a_stall_of_the_learner_extends_every_lease_by_its_length,
    ),
    Mutant(
        "a lease ends at its last moment",
        SessionTable.expired,
        "now > session.expires",
        "now >= session.expires",
        test_admission_leases.test_silence_ends_a_session_and_drops_the_steps_that_it_announced,
    ),
    Mutant(
        "a damaged chunk is requested four times",
        FlowState.retry_damaged,
        "self._crc_failures < _CRC_TRIES",
        "self._crc_failures <= _CRC_TRIES",
        test_admission_chunks.test_a_damaged_body_is_requested_three_times_and_then_dropped,
    ),
    Mutant(
        "the tries of a damaged chunk count for the next one",
        Admission._on_chunk,
        "flow.clear_damaged()",
        "pass",
        test_admission_chunks.test_a_damaged_body_is_requested_three_times_and_then_dropped,
    ),
    Mutant(
        "a chunk goes to the batch of its version",
        Admission._drop_reason,
        "scheduler.admit(batch, chunk.version,",
        "scheduler.admit(chunk.version, chunk.version,",
        test_admission_credit.test_a_chunk_goes_to_the_batch_that_it_was_granted_for,
    ),
    Mutant(
        "a chunk that comes after the end is judged as before",
        Admission._drop_reason,
        "self.registry.draining is not None",
        "False",
        partial(test_admission_leave.test_a_drained_run_leaves_no_step_in_flight, True, "run_finished"),
    ),
    Mutant(
        "a chunk may begin within credit and end beyond it",
        Admission._drop_reason,
        "chunk.offset + chunk.steps > self",
        "chunk.offset > self",
        test_admission_chunks.test_a_chunk_that_ends_beyond_its_credit_is_invalid,
    ),
    Mutant(
        "a skip uses up credit",
        SessionRegistry.drop,
        "self.raise_credit(sid)",
        "pass",
        test_admission_chunks.test_a_skip_is_recorded_and_its_credit_returned,
    ),
    Mutant(
        "steps of another generation use the credit of this one",
        validation.usable_credit,
        "message.generation != generation",
        "False",
        partial(
            test_hostile_sessions.test_steps_of_another_generation_end_with_the_chunk_of_the_join, "skip", -1
        ),
    ),
    Mutant(
        "leases end while messages wait behind one of too many parts",
        Network.poll_once,
        "if not self._ports.data.discarding",
        "if True",
        test_network.test_no_lease_ends_while_messages_wait_behind_one_of_too_many_parts,
    ),
    Mutant(
        "a gap is requested from the first step that is not settled",
        Admission._receive,
        "self.registry.ledger.accounts[session.sid].received",
        "self.registry.ledger.accounts[session.sid].settled",
        test_admission_chunks.test_a_gap_is_requested_from_the_first_step_that_has_not_arrived,
    ),
    Mutant(
        "a repeated chunk is admitted twice",
        Admission._receive,
        "return receipt is Receipt.NEW",
        "return receipt is not Receipt.GAP",
        test_admission_chunks.test_a_gap_is_requested_and_a_repeated_chunk_is_ignored,
    ),
    Mutant(
        "a repeated chunk counts for its slot",
        Admission._receive,
        "if receipt is Receipt.NEW:",
        "if True:",
        test_admission_chunks.test_the_steps_of_a_slot_are_counted_once_and_from_0_for_its_next_session,
    ),
    Mutant(
        "a Bye is acknowledged while steps are missing",
        Admission._on_bye,
        "account.announced",
        "account.announced > bye.produced",
        test_admission_leave.test_a_bye_is_acknowledged_once_every_step_has_arrived,
    ),
    Mutant(
        "a Bye waits for the update",
        Admission._on_bye,
        "if account.announced",
        "if account.announced or account.pending",
        test_admission_leave.test_a_bye_is_acknowledged_once_every_step_has_arrived,
    ),
    Mutant(
        "a Bye requests steps that have arrived",
        Admission._on_bye,
        "account.received",
        "account.settled",
        test_admission_leave.test_a_bye_requests_only_the_steps_that_have_not_arrived,
    ),
    Mutant(
        "a learner that stops reports its run as finished",
        registry.ending_reason,
        "if drain.finished else",
        "if drain is not None else",
        partial(test_admission_leave.test_a_drained_run_leaves_no_step_in_flight, False, "learner_shutdown"),
    ),
    Mutant(
        "a drained learner grants credit",
        SessionRegistry.drain,
        "self.scheduler.close()",
        "pass",
        test_admission_leave.test_a_drained_learner_grants_nothing,
    ),
    Mutant(
        "an unreadable chunk stays admitted",
        SessionRegistry.reject_chunk,
        "self.scheduler.withdraw(batch)",
        "pass",
        test_admission_chunks.test_a_chunk_that_cannot_be_decoded_is_invalid_and_its_batch_is_granted_another,
    ),
    Mutant(
        "every version extends the leases",
        SessionRegistry.open,
        "self.scheduler.version == WARMUP_VERSION",
        "True",
        test_admission_leases.test_a_new_version_extends_no_lease,
    ),
    Mutant(
        "the last steps of a killed local actor are not counted",
        SessionRegistry.local_actor_exited,
        "self.ledger.announce(sid, produced)",
        "pass",
        test_admission_leave.test_the_exit_of_a_local_actor_ends_its_session_at_its_last_step,
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.bug for mutant in MUTANTS])
def test_the_bug_is_noticed(mutant: Mutant, request: pytest.FixtureRequest) -> None:
    check_noticed(mutant, request)
