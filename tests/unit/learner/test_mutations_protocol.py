"""Bugs of step accounting, codec, checkpoints, scheduling and admission: the named test must notice each.

A row rewrites one expression of one function and expects the test beside it to fail (mutation.py). All of
these tests pass without the bug where they are defined.
"""

from __future__ import annotations

from functools import partial

import pytest

from common import files
from common.model.bundle import under
from common.protocol import codec
from learner.server import registry
from learner.server.admission import Admission
from learner.server.ledger import Account, Ledger
from learner.server.registry import SessionRegistry
from learner.server.scheduler import GrantScheduler
from learner.server.sessions import SessionTable
from learner.training import checkpoint
from learner.training.checkpoint import RunDirectory
from tests.support.chunk_messages import IMAGES, VECTORS
from tests.support.mutation import Fact, Mutant, check_noticed
from tests.unit.common import test_codec, test_codec_chunks
from tests.unit.learner import test_admission, test_checkpoint, test_ledger, test_scheduler


def refused(case: str) -> Fact:
    """The test of a message that `decode` must refuse."""
    parts, reason = next(entry[1:] for entry in test_codec.REFUSED if entry[0] == case)
    return partial(test_codec.test_foreign_bytes_are_refused_with_a_reason, parts, reason)


def out_of_range(case: str) -> Fact:
    """The test of a value that `unpack` must refuse."""
    array, value = next(entry[1:] for entry in test_codec_chunks.VALUES if entry[0] == case)
    return partial(test_codec_chunks.test_values_out_of_range_are_refused, array, value)


def damaged(case: str) -> Fact:
    """The test of a compressed stream that `unpack` must refuse."""
    seen, others = next(entry[1:] for entry in test_codec_chunks.STREAMS if entry[0] == case)
    return partial(test_codec_chunks.test_damaged_streams_are_refused, seen, others)


LEDGER = [
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
        test_ledger.test_steps_go_from_announced_to_pending_to_booked,
    ),
    Mutant(
        "a range that begins at the offset does not count",
        Account._recorded_until,
        "start > offset",
        "start >= offset",
        test_ledger.test_settling_out_of_order_frees_only_the_settled_prefix,
    ),
    Mutant(
        "steps recorded beyond a gap are in flight as well",
        Account.announced.fget,  # type: ignore[attr-defined]  # mypy sees the property's value
        " - sum(stop - start for start, stop, _ in later)",
        "",
        test_ledger.test_a_snapshot_forgets_what_was_pending,
    ),
    Mutant(
        "an announcement adds the sum instead of the difference",
        Ledger.announce,
        "produced - account.produced",
        "produced",
        test_ledger.test_steps_go_from_announced_to_pending_to_booked,
    ),
    Mutant(
        "closed accounts take announcements",
        Ledger.announce,
        "not account.closed and produced",
        "produced",
        test_ledger.test_the_dead_say_nothing,
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
        test_ledger.test_a_chunk_beyond_a_gap_is_not_taken,
    ),
    Mutant(
        "a chunk is taken that reaches into recorded steps",
        Ledger.receive,
        "start > account.received or not account.is_free(start, stop)",
        "start > account.received",
        test_ledger.test_a_chunk_that_reaches_into_booked_steps_is_not_taken,
    ),
    Mutant(
        "settled steps stay pending",
        Ledger.settle,
        "account.pending.pop(start)",
        "account.pending[start]",
        test_ledger.test_steps_go_from_announced_to_pending_to_booked,
    ),
    Mutant(
        "a rollback counts what the actor still holds",
        Ledger.rollback,
        "account.gaps(base)",
        "account.gaps(account.produced)",
        test_ledger.test_a_rollback_leaves_what_the_actor_still_holds,
    ),
    Mutant(
        "a death counts only up to what was received",
        Ledger._close,
        "account.gaps(account.produced)",
        "account.gaps(account.received)",
        test_ledger.test_a_death_books_only_what_never_arrived,
    ),
    Mutant(
        "a checkpoint leaves steps of the dead in flight",
        Ledger.from_json,
        'ledger._close(account, "learner_rollback")',
        "account.advance()",
        test_ledger.test_a_snapshot_leaves_no_step_of_the_dead_in_flight,
    ),
    Mutant(
        "the number of sessions begins again at a restart",
        Ledger.from_json,
        'data["produced"], data["seen"]',
        'data["produced"], len(data["accounts"])',
        test_ledger.test_a_snapshot_counts_the_sessions_that_were_forgotten,
    ),
    Mutant(
        "pending steps are in flight no more",
        Ledger.totals,
        "account.announced + sum(stop - start for start, stop in account.pending.items())",
        "account.announced",
        test_ledger.test_a_death_books_only_what_never_arrived,
    ),
]
CODEC = [
    Mutant(
        "a body may be longer than told",
        codec.decode,
        'length != len(body or b"")',
        'length > len(body or b"")',
        refused("a body longer than announced"),
    ),
    Mutant(
        "a header may have any size",
        codec.decode,
        "len(head) > _PREAMBLE.size + _HEADER_BYTES or length",
        "length",
        refused("a header beyond 4 KiB"),
    ),
    Mutant(
        "messages of an older protocol are read",
        codec.decode,
        "major != PROTOCOL_MAJOR",
        "major > PROTOCOL_MAJOR",
        refused("an older major version"),
    ),
    Mutant(
        "an empty body is no body",
        codec.decode,
        "elif body is not None",
        "elif body",
        refused("an empty body of a kind without one"),
    ),
    Mutant(
        "fields of a later version are refused",
        codec.decode,
        "schema.keys() <= fields.keys()",
        "schema.keys() == fields.keys()",
        test_codec.test_unknown_fields_are_ignored,
        codec.WireError,
    ),
    Mutant(
        "maps are bounded by the header alone",
        codec._unpack,
        "max_map_len=_LIST_ITEMS",
        "max_map_len=_HEADER_BYTES",
        refused("a map of 65"),
    ),
    Mutant(
        "text is bounded by the header alone",
        codec._unpack,
        "max_str_len=_TEXT_CHARACTERS",
        "max_str_len=_HEADER_BYTES",
        refused("text beyond 256 characters"),
    ),
    Mutant(
        "the checksum covers the observations alone",
        codec.pack,
        "zlib.crc32(body)",
        "zlib.crc32(seen)",
        partial(test_codec_chunks.test_the_checksum_covers_the_whole_body, VECTORS),
    ),
    Mutant(
        "images are changed by packing",
        codec._changes,
        "words.copy()",
        "words",
        partial(test_codec_chunks.test_chunks_survive_the_wire_bit_for_bit, IMAGES),
    ),
    Mutant(
        "the bits of the last words are cut off",
        codec._video,
        "-(-words // 8)",
        "words // 8",
        test_codec_chunks.test_images_survive_where_their_words_do_not_fill_the_last_byte_of_bits,
        codec.WireError,
    ),
    Mutant(
        "an action may be one too high",
        codec._check_values,
        "chunk.action >= spaces.actions",
        "chunk.action > spaces.actions",
        out_of_range("an action out of range"),
    ),
    Mutant(
        "one bonus of at least 0 is enough",
        codec._check_values,
        "(chunk.bonus < 0).any()",
        "(chunk.bonus < 0).all()",
        out_of_range("a negative bonus"),
    ),
    Mutant(
        "final observations may be too many",
        codec._check_values,
        "int(chunk.truncated.sum()) != truncations",
        "int(chunk.truncated.sum()) > truncations",
        out_of_range("a final observation without a truncation"),
    ),
    Mutant(
        "a compressed stream may be cut",
        codec._inflate_most,
        "len(data) > most_bytes or not stream.eof",
        "len(data) > most_bytes",
        damaged("a cut stream"),
    ),
    Mutant(
        "bytes may follow a compressed stream",
        codec._inflate_most,
        "not stream.eof or stream.unused_data",
        "not stream.eof",
        damaged("bytes after the stream"),
    ),
    Mutant(
        "a stream is unpacked whole before its size is checked",
        codec._inflate_most,
        "stream.decompress(block, most_bytes + 1)",
        "stream.decompress(block)",
        partial(test_codec_chunks.test_a_zip_bomb_is_not_decompressed_whole, "others"),
    ),
]
CHECKPOINT = [
    Mutant(
        "the digest leaves out the JSON",
        checkpoint._digest,
        "hashlib.sha256(text.encode())",
        "hashlib.sha256()",
        test_checkpoint.test_no_damage_goes_unnoticed,
    ),
    Mutant(
        "the digest leaves out the names of tensors",
        checkpoint._digest,
        "{name}{value.dtype}",
        "{value.dtype}",
        test_checkpoint.test_no_damage_goes_unnoticed,
    ),
    Mutant(
        "a file takes its name before it is on the disk",
        files.write_atomically,
        "_sync(temporary)",
        "pass",
        test_checkpoint.test_a_file_is_on_the_disk_before_it_takes_its_name,
    ),
    Mutant(
        "the name of a file is not on the disk",
        files.write_atomically,
        "_sync(path.parent)",
        "pass",
        test_checkpoint.test_a_file_is_on_the_disk_before_it_takes_its_name,
    ),
    Mutant(
        "a file is written in place",
        files.write_atomically,
        'path.with_name(path.name + ".tmp")',
        "path",
        test_checkpoint.test_a_write_that_fails_leaves_the_old_file_and_nothing_else,
        FileNotFoundError,
    ),
    Mutant(
        "half a file stays on a full disk",
        files.write_atomically,
        "temporary.unlink(missing_ok=True)",
        "pass",
        test_checkpoint.test_a_write_that_fails_leaves_the_old_file_and_nothing_else,
    ),
    Mutant(
        "the newest checkpoints are dropped",
        checkpoint.save,
        "[:-_KEPT]",
        "[_KEPT:]",
        test_checkpoint.test_the_last_three_are_kept,
    ),
    Mutant(
        "versions are ordered as text",
        checkpoint.save,
        "{version:09d}",
        "{version}",
        test_checkpoint.test_the_last_three_are_kept,
    ),
    Mutant(
        "a format of a later release is read",
        checkpoint.load,
        'values.pop("format", None) != FORMAT',
        'values.pop("format", 0) < FORMAT',
        test_checkpoint.test_another_format_is_named,
    ),
    Mutant(
        "the oldest checkpoint is resumed",
        checkpoint.newest,
        ", reverse=True",
        "",
        test_checkpoint.test_the_newest_intact_one_is_found,
    ),
    Mutant(
        "a part has tensors of every name that begins like it",
        under,
        "name.startswith(start)",
        "name.startswith(prefix)",
        test_checkpoint.test_a_part_has_no_tensors_of_a_longer_name,
    ),
    Mutant(
        "two learners share a run directory",
        RunDirectory.__init__,
        "fcntl.LOCK_EX",
        "fcntl.LOCK_SH",
        test_checkpoint.test_a_run_directory_has_one_learner,
    ),
    Mutant(
        "a process life has the number of the last one",
        RunDirectory.begin,
        "int(file.read_text()) + 1",
        "int(file.read_text())",
        test_checkpoint.test_every_life_has_a_higher_epoch,
    ),
]
SCHEDULER = [
    Mutant(
        "one batch is opened beyond the last update",
        GrantScheduler.open,
        "self._config.updates - 1",
        "self._config.updates",
        partial(test_scheduler.test_no_batch_is_opened_beyond_the_last_update, test_scheduler.UPDATES - 1),
    ),
    Mutant(
        "a new version forgets what filled a batch early",
        GrantScheduler.open,
        "self.batches.get(number, OpenBatch(chunks))",
        "OpenBatch(chunks)",
        test_scheduler.test_what_filled_a_place_early_still_fills_it_when_the_next_version_is_published,
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
        "batch.admitted >= batch.size",
        "batch.admitted > batch.size",
        test_scheduler.test_a_chunk_beyond_the_places_of_its_batch_is_surplus,
    ),
    Mutant(
        "a failed update asks for no other batch",
        GrantScheduler.reopen,
        "self.batches[self.version] = OpenBatch(self._config.rollout.batch_chunks)",
        "self.batches = {self.version: OpenBatch(self._config.rollout.batch_chunks)}",
        test_scheduler.test_reopening_asks_for_the_whole_batch_again_and_for_no_other,
    ),
    Mutant(
        "a session that reconnects gets a second grant",
        GrantScheduler.add,
        "grant.granted_at is None",
        "True",
        test_scheduler.test_a_connection_made_anew_gives_no_second_grant,
    ),
    Mutant(
        "a session that left keeps its place",
        GrantScheduler.remove,
        "self._release(sid)",
        "pass",
        test_scheduler.test_the_place_of_a_session_that_left_is_open_again,
    ),
    Mutant(
        "a session that left is still offered places",
        GrantScheduler.remove,
        "self._idle.pop(sid, None)",
        "pass",
        test_scheduler.test_places_go_to_the_least_recently_served_of_those_who_are_here,
    ),
    Mutant(
        "places go to the lowest slots",
        GrantScheduler.grant,
        "(item[1].serial, item[1].slot)",
        "item[1].slot",
        test_scheduler.test_places_go_to_the_least_recently_served_of_those_who_are_here,
    ),
    Mutant(
        "more grants are given than there are places",
        GrantScheduler.grant,
        " - granted[number]",
        "",
        test_scheduler.test_places_go_to_the_least_recently_served_of_those_who_are_here,
    ),
    Mutant(
        "a fast session takes the places of those behind",
        GrantScheduler.grant,
        "free > behind or grant.batch < number",
        "True",
        test_scheduler.test_a_fast_session_takes_no_second_place_of_a_batch_from_as_many_sessions_as_places,
    ),
    Mutant(
        "a place is offered again before two seconds",
        GrantScheduler._release_overdue,
        "max(_OVERDUE_SECONDS, ",
        "min(_OVERDUE_SECONDS, ",
        test_scheduler.test_an_overdue_place_of_any_batch_is_offered_to_another_session,
    ),
    Mutant(
        "a slow fleet gets two seconds like a fast one",
        GrantScheduler._release_overdue,
        "max(_OVERDUE_SECONDS, _OVERDUE_MEDIANS * usual)",
        "_OVERDUE_SECONDS",
        test_admission.test_slow_fleets_have_patience,
    ),
    Mutant(
        "one slow chunk stretches the patience with all",
        GrantScheduler.usual_seconds.fget,  # type: ignore[attr-defined]  # mypy sees the property's value
        "statistics.median(",
        "statistics.mean(",
        test_scheduler.test_one_slow_chunk_does_not_delay_the_next_offer_of_a_place,
    ),
    Mutant(
        "an overdue grant keeps its place",
        GrantScheduler._release_overdue,
        "self._release(sid)",
        "return",
        test_scheduler.test_an_overdue_place_of_any_batch_is_offered_to_another_session,
    ),
]
ADMISSION = [
    Mutant(
        "a heartbeat ends the time to build environments",
        SessionTable.renew,
        "now + LEASE_SECONDS if plays else max(session.expires, now + LEASE_SECONDS)",
        "now + LEASE_SECONDS",
        test_admission.test_a_newcomer_has_time_to_build_its_environments,
    ),
    Mutant(
        "a session that plays keeps the time to build environments",
        SessionTable.renew,
        "now + LEASE_SECONDS if plays else max(session.expires, now + LEASE_SECONDS)",
        "max(session.expires, now + LEASE_SECONDS)",
        test_admission.test_silence_ends_a_session_and_books_what_it_announced,
    ),
    Mutant(
        "a pause of the learner counts as silence of its actors",
        SessionTable.extend_by_stall,
        "session.expires += stall",
        "pass",
        test_admission.test_a_pause_of_our_own_is_nobodys_fault,
    ),
    Mutant(
        "a lease ends at its last moment",
        SessionTable.expired,
        "now > session.expires",
        "now >= session.expires",
        test_admission.test_silence_ends_a_session_and_books_what_it_announced,
    ),
    Mutant(
        "a damaged chunk is asked for once too often",
        Admission._on_chunk,
        "flow.crc_failures < _CRC_TRIES",
        "flow.crc_failures <= _CRC_TRIES",
        test_admission.test_a_damaged_body_is_asked_for_three_times_and_then_dropped,
    ),
    Mutant(
        "the tries of a damaged chunk count for the next one",
        Admission._on_chunk,
        "flow.crc_failures = 0",
        "pass",
        test_admission.test_a_damaged_body_is_asked_for_three_times_and_then_dropped,
    ),
    Mutant(
        "a chunk goes to the batch of its version",
        Admission._judge,
        "scheduler.admit(batch, chunk.version)",
        "scheduler.admit(chunk.version, chunk.version)",
        test_admission.test_a_batch_is_filled_by_the_chunks_that_were_granted_for_it,
    ),
    Mutant(
        "a chunk that comes after the end is judged as before",
        Admission._judge,
        "self.registry.draining is not None",
        "False",
        partial(test_admission.test_a_drained_run_closes_every_book, True, "run_finished"),
    ),
    Mutant(
        "a chunk may begin within credit and end beyond it",
        Admission._judge,
        "chunk.offset + chunk.steps > credit",
        "chunk.offset > credit",
        test_admission.test_a_chunk_that_ends_beyond_its_credit_is_invalid,
    ),
    Mutant(
        "a skip uses up credit",
        Admission._on_progress,
        "flow.credit += message.steps",
        "pass",
        test_admission.test_a_skip_is_booked_and_its_credit_given_back,
    ),
    Mutant(
        "a gap is asked for from what was settled",
        Admission._receive,
        "self.registry.ledger.accounts[session.sid].received",
        "self.registry.ledger.accounts[session.sid].settled",
        test_admission.test_a_gap_is_asked_for_from_what_arrived_on,
    ),
    Mutant(
        "a repeated chunk is admitted twice",
        Admission._receive,
        "return receipt is Receipt.NEW",
        "return receipt is not Receipt.GAP",
        test_admission.test_gaps_are_asked_for_and_repeats_are_ignored,
    ),
    Mutant(
        "a repeated chunk counts for its seat",
        Admission._receive,
        "message.steps if receipt is Receipt.NEW else 0",
        "message.steps",
        test_admission.test_a_seat_counts_the_steps_that_arrive_in_it_once,
    ),
    Mutant(
        "a goodbye is granted while steps are missing",
        Admission._on_bye,
        "account.announced",
        "account.announced > bye.produced",
        test_admission.test_goodbye_is_granted_once_everything_is_here,
    ),
    Mutant(
        "a goodbye waits for the update",
        Admission._on_bye,
        "if account.announced",
        "if account.announced or account.pending",
        test_admission.test_goodbye_is_granted_once_everything_is_here,
    ),
    Mutant(
        "a goodbye asks again for what arrived",
        Admission._on_bye,
        "account.received",
        "account.settled",
        test_admission.test_a_goodbye_with_missing_steps_asks_for_those_alone,
    ),
    Mutant(
        "a learner that stops calls its run finished",
        registry.ending_reason,
        "if drain.finished else",
        "if drain is not None else",
        partial(test_admission.test_a_drained_run_closes_every_book, False, "learner_shutdown"),
    ),
    Mutant(
        "a drained learner hands out credit",
        SessionRegistry.drain,
        "self.scheduler.close()",
        "pass",
        test_admission.test_a_drained_learner_grants_nothing,
    ),
    Mutant(
        "an unreadable chunk keeps its place",
        SessionRegistry.reject_chunk,
        "self.scheduler.withdraw(batch)",
        "pass",
        test_admission.test_an_unreadable_body_frees_its_place,
    ),
    Mutant(
        "every version brings time to reset the lanes",
        SessionRegistry.open,
        "self.scheduler.version == WARMUP_VERSION",
        "True",
        test_admission.test_a_new_version_extends_no_lease,
    ),
    Mutant(
        "the last steps of a killed local actor are not counted",
        SessionRegistry.local_actor_exited,
        "self.ledger.announce(sid, produced)",
        "pass",
        test_admission.test_a_local_actor_is_known_to_be_dead_at_once,
    ),
]
MUTANTS = {
    "ledger": LEDGER,
    "codec": CODEC,
    "checkpoint": CHECKPOINT,
    "scheduler": SCHEDULER,
    "admission": ADMISSION,
}
ROWS = [(mutant, f"{part}: {mutant.bug}") for part, mutants in MUTANTS.items() for mutant in mutants]


@pytest.mark.parametrize("mutant", [row[0] for row in ROWS], ids=[row[1] for row in ROWS])
def test_the_bug_is_noticed(mutant: Mutant, request: pytest.FixtureRequest) -> None:
    check_noticed(mutant, request)
