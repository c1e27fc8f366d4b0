"""Deliberate defects of checkpoints and of the run directory, each of which makes the named test fail."""

from __future__ import annotations

import pytest

from common import files
from common.model.bundle import under
from learner.training import checkpoint, retention, stored_checkpoints
from learner.training.checkpoint import RunDirectory
from tests.support.mutation import Mutant, check_noticed
from tests.unit.learner import test_checkpoint, test_retention, test_stored_checkpoints

MUTANTS = [
    Mutant(
        "the digest leaves out the JSON",
        checkpoint._digest,
        "hashlib.sha256(text.encode())",
        "hashlib.sha256()",
        test_checkpoint.test_any_damage_is_detected,
    ),
    Mutant(
        "the digest leaves out the names of tensors",
        checkpoint._digest,
        "{name}{value.dtype}",
        "{value.dtype}",
        test_checkpoint.test_any_damage_is_detected,
    ),
    Mutant(
        "a file takes its name before it is on the disk",
        files.write_atomically,
        "_sync(temporary)",
        "pass",
        test_checkpoint.test_a_file_is_synced_before_it_is_renamed,
    ),
    Mutant(
        "the name of a file is not on the disk",
        files.write_atomically,
        "_sync(path.parent)",
        "pass",
        test_checkpoint.test_a_file_is_synced_before_it_is_renamed,
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
        "versions are ordered as text",
        checkpoint.file_of,
        "{version:09d}",
        "{version}",
        test_checkpoint.test_the_order_of_the_files_is_that_of_the_versions,
    ),
    Mutant(
        "the newest checkpoints are dropped",
        retention.reasons_to_keep,
        "order[-_NEWEST:]",
        "order[:_NEWEST]",
        test_retention.test_what_is_kept_of_a_history,
    ),
    Mutant(
        "the first of equal returns is kept",
        retention.reasons_to_keep,
        "reversed(scored)",
        "scored",
        test_retention.test_what_is_kept_of_a_history,
    ),
    Mutant(
        "the last checkpoint of every hour is always kept",
        retention.reasons_to_keep,
        "if history[at].saved_at > recent:",
        "if recent:",
        test_retention.test_what_is_kept_of_a_history,
    ),
    Mutant(
        "a pinned checkpoint is deleted",
        stored_checkpoints.delete_unneeded,
        " and not checkpoint.pinned",
        "",
        test_stored_checkpoints.test_a_pinned_checkpoint_is_never_deleted,
    ),
    Mutant(
        "a format of a later release is read",
        checkpoint.load,
        "case other if other != FORMAT:",
        "case other if other is None or other < FORMAT:",
        test_checkpoint.test_a_checkpoint_of_another_format_is_refused_with_a_remedy,
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
        "two learners use one run directory",
        RunDirectory.__init__,
        "fcntl.LOCK_EX",
        "fcntl.LOCK_SH",
        test_checkpoint.test_a_run_directory_has_one_learner,
    ),
    Mutant(
        "a process has the generation of the last one",
        RunDirectory.begin,
        "int(file.read_text()) + 1",
        "int(file.read_text())",
        test_checkpoint.test_every_learner_process_has_a_higher_generation,
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.bug for mutant in MUTANTS])
def test_the_bug_is_noticed(mutant: Mutant, request: pytest.FixtureRequest) -> None:
    check_noticed(mutant, request)
