"""Deliberate defects of the accounting, each of which some sequence of the session fuzz finds."""

from __future__ import annotations

import pytest

from learner.server import hello, validation
from learner.server.admission import Admission
from learner.server.ledger import Ledger
from learner.server.registry import SessionRegistry
from learner.server.scheduler import GrantScheduler
from learner.server.sessions import FlowState, SessionTable
from tests.support import session_fuzz
from tests.support.mutation import Mutant, check_noticed
from tests.support.session_fuzz import sequence

SEQUENCES = 300


def no_sequence_breaks_a_rule() -> None:
    """Runs the sequences of the fast tier, without a search for the shortest part."""
    for seed in range(SEQUENCES):
        session_fuzz.play(sequence(seed))


MUTANTS = [
    Mutant(
        "a chunk can be settled twice",
        Ledger.settle,
        "account.pending.pop(start)",
        "account.pending[start]",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "a pending chunk is received again",
        Ledger.receive,
        "start < account.received",
        "start < account.settled",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "steps that a closed session had pending remain in flight after a restart",
        Ledger.from_json,
        "if closed:",
        "if False:",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "steps are counted again with each claim",
        Ledger.announce,
        "self._produced += produced - account.produced",
        "self._produced += produced",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "a key uses sessions of another key",
        Ledger.may_use,
        "account.key == key",
        "True",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "a session claims one step beyond its bound",
        validation._beyond,
        "produced > limit_steps",
        "produced > limit_steps + 1",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "a new session claims any number of steps",
        validation.hello_violation,
        "hello.produced > chunk_steps",
        "False",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "a session discards steps that were not settled",
        validation.hello_violation,
        "hello.base > settled",
        "False",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "a message with a violation is credited",
        Admission._on_progress,
        "result.violations.append(violation)\n        return",
        "result.violations.append(violation)",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "a chunk of another generation is admitted",
        Admission._drop_reason,
        "chunk.generation != self.registry.generation",
        "False",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "a session leaves with steps that did not arrive",
        Admission._on_bye,
        "if account.announced:",
        "if False:",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "a batch admits more chunks than its size",
        GrantScheduler.admit,
        "batch.admitted += 1",
        "pass",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "a failed update frees one place too many",
        SessionRegistry.reopen,
        "self.scheduler.version, chunks)",
        "self.scheduler.version, chunks + 1)",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "credit falls",
        FlowState.raise_credit,
        "max(self.credit, offset)",
        "offset",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "each reconnect raises the bound of a session",
        SessionTable.join,
        "lanes_reset = session.peer is None",
        "lanes_reset = True",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "the former connection of a session is still its own",
        SessionTable.join,
        'self._by_peer.pop(session.peer or b"", None)',
        "pass",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "a key has one session too many",
        hello.decide_hello,
        "table.count(key) >= terms.sessions_per_key",
        "table.count(key) > terms.sessions_per_key",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "the first generation counts invented former sessions",
        hello._former_sessions,
        "if terms.generation > 0 else 0",
        "if terms.generation >= 0 else 0",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "a damaged chunk is requested without end",
        FlowState.retry_damaged,
        "self._crc_failures < _CRC_TRIES",
        "True",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "a session remains after the end of its lease",
        SessionTable.expired,
        "now > session.expires",
        "now > session.expires + 1.0",
        no_sequence_breaks_a_rule,
    ),
    Mutant(
        "a closed session keeps its credit",
        SessionRegistry.close_session,
        "self.flows.pop(session.sid, None)",
        "pass",
        no_sequence_breaks_a_rule,
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.bug for mutant in MUTANTS])
def test_a_sequence_finds_the_bug(mutant: Mutant, request: pytest.FixtureRequest) -> None:
    check_noticed(mutant, request)
