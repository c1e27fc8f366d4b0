"""The step ledger: counts every step of every session exactly once.

    produced = trained + sum(dropped by reason) + in flight

A session's steps are the offsets [0, produced). Each offset is either recorded (trained, or dropped
for one reason), pending (received, not yet settled), or announced (produced, not yet received).
The sums of produced, trained and dropped steps are kept separately, and `in flight` is counted from the
offsets, so an error in one of them shows as an imbalance.

A pure state machine: no socket, no clock, no thread. The network thread owns it.
`python -m learner.verify_ledger RUN_DIR` derives the sums from a checkpoint, without this module.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from learner.interface import Verdict

TRAINED = "trained"
_KEPT_CLOSED = 10_000  # closed sessions whose ranges are kept; only the sums include older ones


class Receipt(Enum):
    """Whether steps that arrived are new."""

    NEW = "new"
    DUPLICATE = "duplicate"
    GAP = "gap"
    CLOSED = "closed"


@dataclass(slots=True)
class Account:
    """The steps of one session. Written by `Ledger` alone.

    Every step before `settled` is recorded, and only their number is kept, by verdict. So the time of each
    operation does not grow with the length of a session. `recorded` has the ranges after `settled`, sorted
    and disjoint, and neighbours of the same verdict are merged.
    """

    key: str = ""  # public key that owns the session; empty without keys
    produced: int = 0
    received: int = 0  # first offset that is neither recorded nor pending
    settled: int = 0  # first offset that is not recorded
    closed: bool = False
    settled_steps: Counter[str] = field(default_factory=Counter)  # steps before `settled`, by verdict
    recorded: list[tuple[int, int, str]] = field(default_factory=list)  # start, stop, verdict
    pending: dict[int, int] = field(default_factory=dict)  # start -> stop

    @property
    def announced(self) -> int:
        """Steps produced, neither received nor recorded."""
        later = self.recorded[bisect_right(self.recorded, (self.received,)) :]
        return self.produced - self.received - sum(stop - start for start, stop, _ in later)

    def is_free(self, start: int, stop: int) -> bool:
        """Return whether no recorded range overlaps [start, stop)."""
        at = bisect_right(self.recorded, (stop,)) - 1
        return at < 0 or self.recorded[at][1] <= start or self.recorded[at][0] >= stop

    def record(self, start: int, stop: int, verdict: str) -> None:
        """Record one range, and merge it with neighbours of the same verdict."""
        assert self.settled <= start, "a step recorded twice"
        at = bisect_right(self.recorded, (start,))
        before = self.recorded[at - 1] if at else None
        after = self.recorded[at] if at < len(self.recorded) else None
        assert before is None or before[1] <= start, "a step recorded twice"
        assert after is None or stop <= after[0], "a step recorded twice"
        first, last = at, at
        if before is not None and before[1] == start and before[2] == verdict:
            start, first = before[0], at - 1
        if after is not None and after[0] == stop and after[2] == verdict:
            stop, last = after[1], at + 1
        self.recorded[first:last] = [(start, stop, verdict)]

    def advance(self) -> None:
        """Advance `settled` over recorded steps, and `received` over recorded or pending ones."""
        self.settled = self._recorded_until(self.settled)
        count = bisect_right(self.recorded, (self.settled,))
        for start, stop, verdict in self.recorded[:count]:
            self.settled_steps[verdict] += stop - start
        del self.recorded[:count]
        self.received = max(self.received, self.settled)
        while True:
            stop = self._recorded_until(self.pending.get(self.received, self.received))
            if stop == self.received:
                return
            self.received = stop

    def _recorded_until(self, offset: int) -> int:
        """Return the first offset from `offset` on that is not recorded."""
        at = max(0, bisect_right(self.recorded, (offset, float("inf"), "")) - 1)
        for start, stop, _ in self.recorded[at:]:
            if start > offset:
                break
            offset = max(offset, stop)
        return offset

    def ranges(self) -> list[tuple[int, int, str]]:
        """Return the recorded ranges, with one range of each verdict for the steps before `settled`."""
        found, end = [], 0
        for verdict, steps in self.settled_steps.items():
            found.append((end, end + steps, verdict))
            end += steps
        return found + self.recorded

    def gaps(self, stop: int) -> list[tuple[int, int]]:
        """Return the ranges of [0, stop) that are neither recorded nor pending."""
        taken = sorted([*((a, b) for a, b, _ in self.recorded), *self.pending.items()])
        found, end = [], self.settled
        for start, last in taken:
            if start >= stop:
                break
            if start > end:
                found.append((end, start))
            end = max(end, last)
        if end < stop:
            found.append((end, stop))
        return found


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums of the ledger, in steps."""

    produced: int
    trained: int
    dropped: dict[str, int]
    in_flight: int

    @property
    def imbalance(self) -> int:
        """0, unless a step was lost or counted twice."""
        return self.produced - self.trained - sum(self.dropped.values()) - self.in_flight


class Ledger:
    """The accounts of all sessions, and their sums."""

    def __init__(self) -> None:
        self.accounts: dict[bytes, Account] = {}
        self._verdicts: Counter[str] = Counter()
        self._produced = 0
        self._seen = 0  # sessions
        self._ended: dict[bytes, None] = {}  # closed accounts, the first closed first

    @property
    def sessions_seen(self) -> int:
        """The number of sessions of the run so far."""
        return self._seen

    def open(self, sid: bytes, key: str = "") -> Account:
        """Return the account of `sid`; if there is none, add one that `key` owns."""
        account = self.accounts.get(sid)
        if account is None:
            account = self.accounts[sid] = Account(key)
            self._seen += 1
        return account

    def may_use(self, sid: bytes, key: str) -> bool:
        """Return whether `key` may name a session: it is new, or belongs to the key."""
        account = self.accounts.get(sid)
        return account is None or account.key == key

    def announce(self, sid: bytes, produced: int) -> None:
        """Raise the number of steps that a session has produced. Closed accounts do not change."""
        account = self.accounts[sid]
        if not account.closed and produced > account.produced:
            self._produced += produced - account.produced
            account.produced = produced

    def receive(self, sid: bytes, start: int, stop: int) -> Receipt:
        """Receive the steps [start, stop); they are pending until `settle`."""
        account = self.accounts[sid]
        if account.closed:
            return Receipt.CLOSED
        if start < account.received:
            return Receipt.DUPLICATE
        if start > account.received or not account.is_free(start, stop):
            return Receipt.GAP
        self.announce(sid, stop)
        account.pending[start] = stop
        account.advance()
        return Receipt.NEW

    def settle(self, sid: bytes, start: int, verdict: Verdict) -> None:
        """Record the pending steps that begin at `start`."""
        account = self.accounts[sid]
        self._record(account, start, account.pending.pop(start), verdict)
        account.advance()

    def rollback(self, sid: bytes, base: int) -> None:
        """Record the missing steps before `base` as rolled back: an earlier generation settled them."""
        account = self.accounts[sid]
        if base <= account.received:
            return
        self.announce(sid, base)
        for start, stop in account.gaps(base):
            self._record(account, start, stop, "learner_rollback")
        account.advance()

    def close_session(self, sid: bytes, verdict: Verdict) -> None:
        """Close a session: steps that never arrived are dropped; pending ones settle with their batch."""
        account = self.accounts[sid]
        if account.closed:
            return
        self._close(account, verdict)
        account.closed = True
        self._ended[sid] = None
        self._drop_oldest()

    def close_at(self, sid: bytes, key: str, produced: int) -> None:
        """Close a session of an earlier generation at `produced` steps.

        A checkpoint may have fewer steps of it, or none. The missing steps are `learner_rollback`. A second
        call with the same count changes nothing.
        """
        account = self.open(sid, key)
        if account.closed and produced <= account.produced:
            return
        account.closed = False
        self._ended.pop(sid, None)
        self.announce(sid, produced)
        self.close_session(sid, "learner_rollback")

    def _drop_oldest(self) -> None:
        """Drop the accounts of the sessions that were closed first; their steps stay in the sums."""
        while len(self._ended) > _KEPT_CLOSED:
            first = next(iter(self._ended))
            if self.accounts[first].pending:  # it is dropped once its batch has settled
                return
            del self._ended[first], self.accounts[first]

    def _close(self, account: Account, verdict: Verdict) -> None:
        """Record all steps that are neither recorded nor pending."""
        for start, stop in account.gaps(account.produced):
            self._record(account, start, stop, verdict)
        account.advance()

    def _record(self, account: Account, start: int, stop: int, verdict: Verdict) -> None:
        account.record(start, stop, verdict)
        self._verdicts[verdict] += stop - start

    def totals(self) -> Totals:
        """Return the sums over every session of the run so far."""
        in_flight = 0
        for account in self.accounts.values():
            in_flight += account.announced + sum(stop - start for start, stop in account.pending.items())
        dropped = {reason: steps for reason, steps in sorted(self._verdicts.items()) if reason != TRAINED}
        return Totals(self._produced, self._verdicts[TRAINED], dropped, in_flight)

    def to_json(self) -> str:
        """Return the ledger as JSON for a checkpoint, without pending steps, which it does not contain.

        The ranges before `settled` have the right number of steps of each verdict, in another order.
        """
        order = [*self._ended, *(sid for sid in self.accounts if sid not in self._ended)]
        pairs = ((sid, self.accounts[sid]) for sid in order)
        accounts = {sid.hex(): [a.produced, a.closed, a.ranges(), a.key] for sid, a in pairs}
        return json.dumps(
            {"produced": self._produced, "seen": self._seen, "verdicts": self._verdicts, "accounts": accounts}
        )

    @staticmethod
    def from_json(text: str) -> Ledger:
        """Restore `to_json`. Steps that were pending are announced until their session sends them again."""
        data: dict[str, Any] = json.loads(text)
        ledger = Ledger()
        ledger._produced, ledger._seen = data["produced"], data["seen"]
        ledger._verdicts = Counter(data["verdicts"])
        for sid, (produced, closed, recorded, *key) in data["accounts"].items():
            account = Account(key[0] if key else "", produced, closed=closed)
            account.recorded = [(start, stop, verdict) for start, stop, verdict in recorded]
            account.advance()
            ledger.accounts[bytes.fromhex(sid)] = account
            if closed:  # its pending steps will not be sent again
                ledger._close(account, "learner_rollback")
                ledger._ended[bytes.fromhex(sid)] = None
        return ledger
