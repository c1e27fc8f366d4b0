"""The books: every step of every session, in exactly one place, at every moment.

    produced = trained + sum(dropped by reason) + in flight

A session's steps are the offsets [0, produced). Each offset is either booked (trained, or dropped
for one reason), pending (received, not yet settled), or announced (produced, not yet received).
The four columns are kept apart, and `in flight` is counted from where steps are, so that a fault in
one of them shows as an imbalance instead of vanishing in a difference.

A pure state machine: no socket, no clock, no thread. The learner's network thread owns it.
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
_KEPT_DEAD = 10_000  # sessions whose ranges stay after they ended; older ones only count


class Receipt(Enum):
    """What became of steps that arrived."""

    NEW = "new"
    DUPLICATE = "duplicate"
    GAP = "gap"
    DEAD = "dead"


@dataclass(slots=True)
class Account:
    """One session's books. `booked` is sorted, disjoint, and merged where verdicts agree."""

    key: str = ""  # public key that owns the session; empty without keys
    produced: int = 0
    received: int = 0  # first offset that is neither booked nor pending
    settled: int = 0  # first offset that is not booked
    dead: bool = False
    booked: list[tuple[int, int, str]] = field(default_factory=list)
    pending: dict[int, int] = field(default_factory=dict)  # start -> stop

    @property
    def announced(self) -> int:
        """Steps produced, neither received nor booked."""
        later = self.booked[bisect_right(self.booked, (self.received,)) :]
        return self.produced - self.received - sum(stop - start for start, stop, _ in later)

    def is_free(self, start: int, stop: int) -> bool:
        """No booked range touches [start, stop)."""
        at = bisect_right(self.booked, (stop,)) - 1
        return at < 0 or self.booked[at][1] <= start or self.booked[at][0] >= stop

    def book(self, start: int, stop: int, verdict: str) -> None:
        """Insert one range, merged with neighbours of the same verdict."""
        at = bisect_right(self.booked, (start,))
        before = self.booked[at - 1] if at else None
        after = self.booked[at] if at < len(self.booked) else None
        assert before is None or before[1] <= start, "a step booked twice"
        assert after is None or stop <= after[0], "a step booked twice"
        first, last = at, at
        if before is not None and before[1] == start and before[2] == verdict:
            start, first = before[0], at - 1
        if after is not None and after[0] == stop and after[2] == verdict:
            stop, last = after[1], at + 1
        self.booked[first:last] = [(start, stop, verdict)]

    def advance(self) -> None:
        """Move `settled` over everything booked, and `received` over everything booked or pending."""
        self.settled = self._booked_until(self.settled)
        while True:
            stop = self._booked_until(self.pending.get(self.received, self.received))
            if stop == self.received:
                return
            self.received = stop

    def _booked_until(self, offset: int) -> int:
        """The first offset from `offset` on that is not booked."""
        at = max(0, bisect_right(self.booked, (offset, float("inf"), "")) - 1)
        for start, stop, _ in self.booked[at:]:
            if start > offset:
                break
            offset = max(offset, stop)
        return offset

    def gaps(self, stop: int) -> list[tuple[int, int]]:
        """Ranges of [0, stop) that are neither booked nor pending."""
        taken = sorted([*((a, b) for a, b, _ in self.booked), *self.pending.items()])
        found, end = [], 0
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
    """The books in one line, in steps."""

    produced: int
    trained: int
    dropped: dict[str, int]
    in_flight: int

    @property
    def imbalance(self) -> int:
        """0, unless a step was lost or counted twice."""
        return self.produced - self.trained - sum(self.dropped.values()) - self.in_flight


class Ledger:
    """All sessions' accounts and their sums."""

    def __init__(self) -> None:
        self.accounts: dict[bytes, Account] = {}
        self._verdicts: Counter[str] = Counter()
        self._produced = 0
        self._seen = 0
        self._ended: dict[bytes, None] = {}  # closed accounts, in the order of their ends

    @property
    def sessions_seen(self) -> int:
        """Distinct sessions ever opened."""
        return self._seen

    def open(self, sid: bytes, key: str = "") -> Account:
        """The account of `sid`, a new one of `key` if there is none."""
        account = self.accounts.get(sid)
        if account is None:
            account = self.accounts[sid] = Account(key)
            self._seen += 1
        return account

    def may_use(self, sid: bytes, key: str) -> bool:
        """Whether `key` may name the session: it is new, or belongs to the key."""
        account = self.accounts.get(sid)
        return account is None or account.key == key

    def announce(self, sid: bytes, produced: int) -> None:
        """The session has stepped this far in all. Ignored for closed accounts; see `extend`."""
        account = self.accounts[sid]
        if not account.dead and produced > account.produced:
            self._produced += produced - account.produced
            account.produced = produced

    def receive(self, sid: bytes, start: int, stop: int) -> Receipt:
        """Take in the steps [start, stop); they are pending until `settle`."""
        account = self.accounts[sid]
        if account.dead:
            return Receipt.DEAD
        if start < account.received:
            return Receipt.DUPLICATE
        if start > account.received or not account.is_free(start, stop):
            return Receipt.GAP
        self.announce(sid, stop)
        account.pending[start] = stop
        account.advance()
        return Receipt.NEW

    def settle(self, sid: bytes, start: int, verdict: Verdict) -> None:
        """Close the books on pending steps that began at `start`."""
        account = self.accounts[sid]
        self._book(account, start, account.pending.pop(start), verdict)
        account.advance()

    def rollback(self, sid: bytes, base: int) -> None:
        """The actor freed everything before `base`: what we do not have, an earlier generation settled."""
        account = self.accounts[sid]
        self.announce(sid, base)
        for start, stop in account.gaps(base):
            self._book(account, start, stop, "learner_rollback")
        account.advance()

    def close_session(self, sid: bytes, verdict: Verdict) -> None:
        """The session is over: what never arrived is dropped; what arrived still settles."""
        account = self.accounts[sid]
        if account.dead:
            return
        self._close(account, verdict)
        account.dead = True
        self._ended[sid] = None
        self._forget()

    def extend(self, sid: bytes, key: str, produced: int) -> None:
        """Close a session of an earlier learner process at `produced` steps.

        A checkpoint may know fewer steps of it, or nothing. What it lacks was dropped with the earlier
        process: `learner_rollback`. A second call with the same count changes nothing.
        """
        account = self.open(sid, key)
        if account.dead and produced <= account.produced:
            return
        account.dead = False
        self._ended.pop(sid, None)
        self.announce(sid, produced)
        self.close_session(sid, "learner_rollback")

    def _forget(self) -> None:
        """Drop the ranges of the sessions that ended first; their steps stay in the sums."""
        while len(self._ended) > _KEPT_DEAD:
            first = next(iter(self._ended))
            if self.accounts[first].pending:  # it settles with its batch, and is dropped then
                return
            del self._ended[first], self.accounts[first]

    def _close(self, account: Account, verdict: Verdict) -> None:
        """Book whatever is neither booked nor pending."""
        for start, stop in account.gaps(account.produced):
            self._book(account, start, stop, verdict)
        account.advance()

    def _book(self, account: Account, start: int, stop: int, verdict: Verdict) -> None:
        account.book(start, stop, verdict)
        self._verdicts[verdict] += stop - start

    def totals(self) -> Totals:
        """Sum over every session, the forgotten ones included."""
        in_flight = 0
        for account in self.accounts.values():
            in_flight += account.announced + sum(stop - start for start, stop in account.pending.items())
        dropped = {reason: steps for reason, steps in sorted(self._verdicts.items()) if reason != TRAINED}
        return Totals(self._produced, self._verdicts[TRAINED], dropped, in_flight)

    def to_json(self) -> str:
        """The books as text for a checkpoint. Pending steps are left out: their data is not kept."""
        order = [*self._ended, *(sid for sid in self.accounts if sid not in self._ended)]
        listed = ((sid, self.accounts[sid]) for sid in order)
        accounts = {sid.hex(): [a.produced, a.dead, a.booked, a.key] for sid, a in listed}
        return json.dumps(
            {"produced": self._produced, "seen": self._seen, "verdicts": self._verdicts, "accounts": accounts}
        )

    @staticmethod
    def from_json(text: str) -> Ledger:
        """Restore the books. What was pending is announced again, until its session resends it."""
        data: dict[str, Any] = json.loads(text)
        ledger = Ledger()
        ledger._produced, ledger._seen = data["produced"], data["seen"]
        ledger._verdicts = Counter(data["verdicts"])
        for sid, (produced, dead, booked, *key) in data["accounts"].items():
            ranges = [(start, stop, verdict) for start, stop, verdict in booked]
            account = Account(key[0] if key else "", produced, 0, 0, dead, ranges)
            account.advance()
            ledger.accounts[bytes.fromhex(sid)] = account
            if dead:  # what it had pending will not be sent again
                ledger._close(account, "learner_rollback")
                ledger._ended[bytes.fromhex(sid)] = None
        return ledger
