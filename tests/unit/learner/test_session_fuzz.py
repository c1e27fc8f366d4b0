"""Sequences of messages, faults and restarts break no rule of the protocol."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest

from common.protocol import messages as m
from learner.server.ledger import Ledger
from tests.support import session_fuzz

FAST, SLOW, BLOCKS = 300, 10_000, 20
REPLIES = {"Welcome", "Reject lost", "Reject full", "HelloRequired", "Resend", "ByeAck", "Drain"}
FATES = {"trained", *get_args(m.Reason)} - {"warmup"}  # the sequences begin after the warm-up


def test_no_sequence_breaks_a_rule() -> None:
    """A model written from the documents predicts replies, violations, admissions, leases and sums."""
    reached: Counter[str] = Counter()
    for seed in range(FAST):
        reached += session_fuzz.check(seed)
    assert reached.keys() >= {"violation"} | REPLIES | FATES


@pytest.mark.slow
@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_sequence_of_many_breaks_a_rule(block: int) -> None:
    for seed in range(FAST + block * SLOW // BLOCKS, FAST + (block + 1) * SLOW // BLOCKS):
        session_fuzz.check(seed)


def test_a_failure_shows_its_seed_and_the_shortest_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defect is a restart that forgets every session; the honest actors play once before it."""
    monkeypatch.setattr(Ledger, "from_json", lambda text: Ledger())
    with pytest.raises(session_fuzz.BrokenRuleError) as failure:
        for seed in range(FAST):
            session_fuzz.check(seed)
    first, *rest = str(failure.value).splitlines()
    assert first.startswith("seed ")
    events = [line for line in rest if line.startswith("Event(")]
    assert len(events) < 10
    assert any("restart" in event for event in events)
    assert any("sends Hello" in line for line in rest)
