"""The ledger of one session equals the simplest possible one: a list with the state of each step."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from learner.interface import Verdict
from learner.server.ledger import Ledger, Receipt
from learner.verify_ledger import problems

SID = b"a" * 16


class OneSession(RuleBasedStateMachine):
    """`steps` holds for each step None (announced), "pending" or a verdict."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.ledger.open(SID)
        self.steps: list[str | None] = []
        self.pending: dict[int, int] = {}
        self.closed = False
        self.saved = (self.ledger.to_json(), self.steps.copy(), False)

    def first(self, *states: str | None) -> int:
        """The first offset in one of these states."""
        return next((at for at, state in enumerate(self.steps) if state in states), len(self.steps))

    def extend(self, stop: int) -> None:
        self.steps += [None] * (stop - len(self.steps))

    @rule(more=st.integers(-3, 9))
    def announce(self, more: int) -> None:
        self.ledger.announce(SID, len(self.steps) + more)
        if not self.closed:
            self.extend(len(self.steps) + more)

    @rule(shift=st.sampled_from([0, 0, 0, 0, -5, -1, 1, 5]), steps=st.integers(1, 7))
    def receive(self, shift: int, steps: int) -> None:
        start = max(0, self.first(None) + shift)
        stop = start + steps
        if self.closed:
            expected = Receipt.CLOSED
        elif start < self.first(None):
            expected = Receipt.DUPLICATE
        elif start > self.first(None) or any(self.steps[start:stop]):
            expected = Receipt.GAP
        else:
            expected = Receipt.NEW
            self.extend(stop)
            self.steps[start:stop] = ["pending"] * steps
            self.pending[start] = stop
        assert self.ledger.receive(SID, start, stop) is expected

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), verdict=st.sampled_from(["trained", "stale", "warmup"]))
    def settle(self, data: st.DataObject, verdict: Verdict) -> None:
        start = data.draw(st.sampled_from(sorted(self.pending)))
        stop = self.pending.pop(start)
        self.steps[start:stop] = [verdict] * (stop - start)
        self.ledger.settle(SID, start, verdict)

    def drop_announced(self, stop: int, verdict: str) -> None:
        self.steps[:stop] = [verdict if state is None else state for state in self.steps[:stop]]

    @precondition(lambda self: not self.closed)
    @rule(more=st.integers(-9, 9))
    def rollback(self, more: int) -> None:
        base = max(0, len(self.steps) + more)
        self.extend(base)
        self.drop_announced(base, "learner_rollback")
        self.ledger.rollback(SID, base)

    @rule()
    def save(self) -> None:
        kept = [None if state == "pending" else state for state in self.steps]
        self.saved = (self.ledger.to_json(), kept, self.closed)

    @rule()
    def restart(self) -> None:
        text, steps, self.closed = self.saved
        self.ledger, self.steps, self.pending = Ledger.from_json(text), steps.copy(), {}
        if self.closed:  # a closed session sends nothing again
            self.drop_announced(len(self.steps), "learner_rollback")

    @precondition(lambda self: len(self.steps) > 20)
    @rule()
    def close_session(self) -> None:
        self.ledger.close_session(SID, "actor_lost")
        if not self.closed:
            self.drop_announced(len(self.steps), "actor_lost")
        self.closed = True

    @invariant()
    def agrees(self) -> None:
        account, totals = self.ledger.accounts[SID], self.ledger.totals()
        assert totals.imbalance == 0
        assert totals.produced == len(self.steps)
        assert totals.in_flight == self.steps.count(None) + self.steps.count("pending")
        assert (account.received, account.settled) == (self.first(None), self.first(None, "pending"))
        assert account.settled_steps == Counter(self.steps[: account.settled])
        ranges, at = [], account.settled
        for state, group in itertools.groupby(self.steps[at:]):
            start, at = at, at + len(list(group))
            if state not in (None, "pending"):
                ranges.append((start, at, state))
        assert account.recorded == ranges
        if not (self.closed and self.pending):
            saved = json.loads(self.ledger.to_json())
            assert list(problems(saved, self.steps.count("trained"))) == []


TestOneSession = OneSession.TestCase
TestOneSession.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
)
