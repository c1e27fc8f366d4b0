"""The books balance at every moment, whatever happens to actors, messages and learners."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from learner.interface import Verdict
from learner.server import ledger as books
from learner.server.ledger import Account, Ledger, Receipt, Totals
from tests.support.result_files import keep

SCHEDULES = 3_000
A, B = b"a" * 16, b"b" * 16


def opened(*sids: bytes) -> Ledger:
    """A ledger with these sessions."""
    ledger = Ledger()
    for sid in sids:
        ledger.open(sid)
    return ledger


def tiles(account: Account, stop: int) -> bool:
    """The recorded ranges cover [0, stop) without gap or overlap."""
    edges = [0, *itertools.chain.from_iterable((start, end) for start, end, _ in account.recorded), stop]
    return edges[::2] == edges[1::2] and all(start < end for start, end, _ in account.recorded)


def test_steps_go_from_announced_to_pending_to_booked() -> None:
    """At each stage a step is in flight or recorded, once."""
    ledger = opened(A)
    ledger.announce(A, 10)
    assert ledger.totals() == Totals(10, 0, {}, 10)
    assert ledger.receive(A, 0, 7) is Receipt.NEW
    assert (ledger.accounts[A].announced, ledger.accounts[A].received) == (3, 7)
    ledger.settle(A, 0, "trained")
    assert ledger.totals() == Totals(10, 7, {}, 3)
    assert ledger.receive(A, 7, 12) is Receipt.NEW  # arrival announces
    ledger.settle(A, 7, "stale")
    assert ledger.totals() == Totals(12, 7, {"stale": 5}, 0)


def test_a_session_of_an_earlier_process_is_counted_to_its_end_once() -> None:
    """Known to a checkpoint or not; what the checkpoint lacks was dropped with that process."""
    ledger = opened(A)
    ledger.announce(A, 5)
    for _ in range(2):
        ledger.close_at(A, "", 9)
        ledger.close_at(B, "", 4)
    assert ledger.totals() == Totals(13, 0, {"learner_rollback": 13}, 0)
    assert tiles(ledger.accounts[A], 9) and tiles(ledger.accounts[B], 4)
    ledger.close_at(A, "", 7)  # less than is known
    assert ledger.accounts[A].produced == 9
    assert ledger.sessions_seen == 2


def test_the_ranges_of_the_sessions_that_ended_first_are_dropped_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not those of the sessions that began first; a checkpoint keeps the order."""
    monkeypatch.setattr(books, "_KEPT_CLOSED", 2)
    names = [bytes([number]) * 16 for number in range(4)]
    ledger = opened(*names)
    for name in (names[3], names[0]):
        ledger.close_session(name, "actor_lost")
    ledger = Ledger.from_json(ledger.to_json())
    ledger.close_session(names[1], "actor_lost")
    assert sorted(ledger.accounts) == names[:3]
    ledger.close_session(names[2], "actor_lost")
    assert sorted(ledger.accounts) == names[1:3]


def test_a_repeated_chunk_changes_nothing() -> None:
    """Pending or recorded, the second copy is a duplicate."""
    ledger = opened(A)
    ledger.receive(A, 0, 5)
    assert ledger.receive(A, 0, 5) is Receipt.DUPLICATE
    ledger.settle(A, 0, "trained")
    before = ledger.to_json()
    assert ledger.receive(A, 0, 5) is Receipt.DUPLICATE
    assert ledger.to_json() == before


def test_a_chunk_beyond_a_gap_is_not_taken() -> None:
    """Steps arrive in order, or not at all."""
    ledger = opened(A)
    ledger.receive(A, 0, 5)
    assert ledger.receive(A, 10, 15) is Receipt.GAP
    assert ledger.accounts[A].received == 5


def test_a_chunk_that_reaches_into_booked_steps_is_not_taken() -> None:
    """It begins where the received steps end, but some of its steps are recorded already."""
    ledger = opened(A)
    for start in (0, 5):
        ledger.receive(A, start, start + 5)
    ledger.settle(A, 5, "stale")
    restored = Ledger.from_json(ledger.to_json())
    assert restored.receive(A, 0, 8) is Receipt.GAP
    assert restored.totals() == Totals(10, 0, {"stale": 5}, 5)


def test_settling_out_of_order_frees_only_the_settled_prefix() -> None:
    """`settled` is cumulative: it waits for the chunk before."""
    ledger = opened(A)
    for start in (0, 5, 10):
        ledger.receive(A, start, start + 5)
    ledger.settle(A, 5, "surplus")
    ledger.settle(A, 10, "trained")
    assert ledger.accounts[A].settled == 0
    ledger.settle(A, 0, "trained")
    assert ledger.accounts[A].settled == 15


def test_neighbours_of_one_verdict_are_one_range() -> None:
    """The books of a long session stay short, in whatever order they are written."""
    ledger = opened(A)
    for start in range(0, 35, 5):
        ledger.receive(A, start, start + 5)
    for start in (0, 10, 5, 20, 15, 30):
        ledger.settle(A, start, "trained")
    ledger.settle(A, 25, "stale")
    assert ledger.accounts[A].recorded == [(0, 25, "trained"), (25, 30, "stale"), (30, 35, "trained")]


def test_a_death_books_only_what_never_arrived() -> None:
    """Received steps are trained after their actor died."""
    ledger = opened(A, B)
    ledger.receive(A, 0, 5)
    ledger.announce(A, 12)
    ledger.close_session(A, "actor_lost")
    assert ledger.totals() == Totals(12, 0, {"actor_lost": 7}, 5)
    ledger.settle(A, 0, "trained")
    assert ledger.totals() == Totals(12, 5, {"actor_lost": 7}, 0)


def test_the_dead_say_nothing() -> None:
    """A closed account takes no steps and no announcements, and is closed once."""
    ledger = opened(A)
    ledger.announce(A, 5)
    ledger.close_session(A, "actor_lost")
    before = ledger.to_json()
    ledger.announce(A, 9)
    ledger.close_session(A, "actor_shutdown")
    assert ledger.receive(A, 5, 9) is Receipt.CLOSED
    assert ledger.to_json() == before


def test_a_rollback_books_only_what_is_missing() -> None:
    """Steps that an earlier generation settled and this one does not know are dropped."""
    ledger = opened(A)
    ledger.receive(A, 0, 5)
    ledger.rollback(A, 15)
    assert ledger.totals() == Totals(15, 0, {"learner_rollback": 10}, 5)
    assert ledger.receive(A, 15, 20) is Receipt.NEW
    ledger.rollback(A, 15)
    assert ledger.totals() == Totals(20, 0, {"learner_rollback": 10}, 10)


def test_a_rollback_leaves_what_the_actor_still_holds() -> None:
    """Steps from `base` on will be sent."""
    ledger = opened(A)
    ledger.announce(A, 20)
    ledger.rollback(A, 15)
    assert ledger.totals() == Totals(20, 0, {"learner_rollback": 15}, 5)
    assert ledger.receive(A, 15, 20) is Receipt.NEW


def test_a_snapshot_forgets_what_was_pending() -> None:
    """Its data is gone, so its actor sends it again; a chunk settled out of order is skipped over."""
    ledger = opened(A, B)
    for start in (0, 5, 10):
        ledger.receive(A, start, start + 5)
    ledger.settle(A, 5, "trained")
    ledger.close_session(B, "actor_lost")
    restored = Ledger.from_json(ledger.to_json())
    assert restored.totals() == ledger.totals()
    assert restored.accounts[A].received == 0
    assert restored.accounts[B].closed
    assert restored.receive(A, 0, 5) is Receipt.NEW
    assert restored.receive(A, 5, 10) is Receipt.DUPLICATE
    assert restored.receive(A, 10, 15) is Receipt.NEW
    assert restored.to_json() == ledger.to_json()


def test_a_snapshot_leaves_no_step_of_the_dead_in_flight() -> None:
    """What a dead session had pending is gone with the data: nobody will send it again."""
    ledger = opened(A)
    ledger.receive(A, 0, 5)
    ledger.announce(A, 7)
    ledger.close_session(A, "actor_lost")
    restored = Ledger.from_json(ledger.to_json())
    assert restored.totals() == Totals(7, 0, {"actor_lost": 2, "learner_rollback": 5}, 0)


def test_the_oldest_dead_are_forgotten_and_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded; sums and the number of sessions are not."""
    monkeypatch.setattr(books, "_KEPT_CLOSED", 3)
    ledger = Ledger()
    for number in range(7):
        sid = bytes([number]) * 16
        ledger.open(sid)
        ledger.announce(sid, 5)
        ledger.close_session(sid, "actor_lost")
    assert len(ledger.accounts) == 3
    assert ledger.sessions_seen == 7
    assert ledger.totals() == Totals(35, 0, {"actor_lost": 35}, 0)


def test_a_snapshot_counts_the_sessions_that_were_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "_KEPT_CLOSED", 1)
    ledger = opened(A, B)
    ledger.close_session(A, "actor_lost")
    ledger.close_session(B, "actor_lost")
    assert ledger.accounts.keys() == {B}
    assert Ledger.from_json(ledger.to_json()).sessions_seen == 2


# A fleet under faults. Actors and learner talk through a network that loses, repeats and reorders;
# each actor counts its own steps, which is the truth that the ledger is held against.


@dataclass
class Actor:
    """One actor process at a time: its session and what it still holds."""

    sid: bytes
    generation: int = -1
    joined: bool = False
    produced: int = 0
    sealed: int = 0
    held: list[tuple[int, int, str]] = field(default_factory=list)  # start, stop, "data" or a skip's reason
    cut: int = 0  # events for which nothing passes

    @property
    def base(self) -> int:
        return self.held[0][0] if self.held else self.sealed

    def seal(self, kind: str) -> None:
        if self.produced > self.sealed:
            self.held.append((self.sealed, self.produced, kind))
            self.sealed = self.produced


class Fleet:
    """Three actors, a learner with its checkpoint, and the truth."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # a schedule, nothing secret
        self.ledger, self.generation = Ledger(), 0
        self.snapshot = self.ledger.to_json()
        self.known: set[bytes] = set()  # welcomed in this generation
        self.training: list[tuple[bytes, int]] = []
        self.waiting: list[tuple[bytes, int]] = []
        self.network: list[tuple[str, Actor, tuple[Any, ...]]] = []
        self.truth: dict[bytes, int] = {}  # steps made, by session
        self.serial = 0
        self.actors = [Actor(self.name()) for _ in range(3)]
        self.quiet = False

    def name(self) -> bytes:
        self.serial += 1
        sid = self.serial.to_bytes(16)
        self.truth[sid] = 0
        return sid

    # The actor's side.

    def act(self, actor: Actor) -> None:
        """Step, seal, or say something."""
        choice = self.random.random()
        if choice < 0.4 and not self.quiet:
            actor.produced += self.random.randint(1, 4)
            self.truth[actor.sid] = actor.produced
        elif choice < 0.6:
            actor.seal("data" if self.random.random() < 0.9 else "oversize")
        elif not actor.joined:
            self.post("hello", actor, actor.generation, actor.base, actor.produced)
        elif actor.held and choice < 0.9:
            first = self.random.random() < 0.7
            self.post(
                "steps", actor, *(actor.held[0] if first else self.random.choice(actor.held)), actor.produced
            )
        else:
            self.post("beat", actor, actor.produced)

    def hear(self, actor: Actor, kind: str, generation: int, settled: int) -> None:
        """An answer of the learner."""
        if kind == "lost":
            self.abandon(actor, settled)
        elif kind == "rehello":
            actor.joined = False
        elif kind == "welcome" or generation == actor.generation:
            actor.joined, actor.generation = True, generation
            actor.held = [held for held in actor.held if held[1] > settled]

    def abandon(self, actor: Actor, known: int) -> None:
        """The same process begins a new session; the old one's data is gone, its untold steps go along."""
        untold, self.truth[actor.sid] = max(0, actor.produced - known), known
        actor.__init__(self.name())  # type: ignore[misc]
        actor.produced = self.truth[actor.sid] = untold
        actor.seal("actor_lost")

    # The network.

    def post(self, kind: str, actor: Actor, *facts: object, sid: bytes = b"") -> None:
        """Send, now and then twice; lost in a partition, and sometimes without one."""
        copies = 1 if self.quiet else self.random.choices((0, 1, 2), (5, 90, 5))[0]
        if self.quiet or not actor.cut:
            self.network += [(kind, actor, (sid or actor.sid, *facts))] * copies

    def deliver(self) -> None:
        """Let one message through, out of order now and then."""
        if self.network:
            late = not self.quiet and self.random.random() < 0.3
            kind, actor, facts = self.network.pop(self.random.randrange(len(self.network)) if late else 0)
            if kind in ("hello", "steps", "beat"):
                self.serve(kind, actor, *facts)
            elif facts[0] == actor.sid:
                self.hear(actor, kind, *facts[1:])

    # The learner's side: the part of Admission that touches the books.

    def serve(self, kind: str, actor: Actor, sid: bytes, *facts: Any) -> None:
        account = self.ledger.accounts.get(sid)
        if kind == "hello":
            generation, base, produced = facts
            if (account is None and generation == self.generation) or (
                account is not None and account.closed
            ):
                known = account.produced if account else produced
                return self.post("lost", actor, self.generation, known, sid=sid)
            account = self.ledger.open(sid)
            self.ledger.announce(sid, produced)
            self.ledger.rollback(sid, base)
            self.known.add(sid)
            return self.post("welcome", actor, self.generation, account.settled)
        if sid not in self.known or account is None or account.closed:
            return self.post("rehello", actor, self.generation, 0)
        self.ledger.announce(sid, facts[-1])
        if kind == "steps" and self.ledger.receive(sid, facts[0], facts[1]) is Receipt.NEW:
            verdict = self.random.choice(["stale", "surplus", "old_generation", "invalid"])
            if facts[2] != "data":
                verdict = facts[2]
            if facts[2] == "data" and self.random.random() < 0.8:
                self.waiting.append((sid, facts[0]))
            else:
                self.ledger.settle(sid, facts[0], verdict)  # type: ignore[arg-type]
        return self.post("ack", actor, self.generation, account.settled)

    def train(self) -> None:
        """Settle the batch in training, in any order, and begin the next."""
        self.random.shuffle(self.training)
        verdict = "update_failed" if self.random.random() < 0.1 else "trained"
        for sid, start in self.training:
            self.ledger.settle(sid, start, verdict)  # type: ignore[arg-type]
        self.training, self.waiting = self.waiting, []

    # Faults.

    def kill_actor(self) -> None:
        """Kill -9; sometimes its parent tells the learner how far it got."""
        actor = self.random.choice(self.actors)
        account = self.ledger.accounts.get(actor.sid)
        if account is not None and self.random.random() < 0.5:
            self.ledger.announce(actor.sid, self.truth[actor.sid])
            self.ledger.close_session(actor.sid, "actor_lost")
        self.actors[self.actors.index(actor)] = Actor(self.name())

    def declare_dead(self) -> None:
        """A lease that expired; its actor may well be alive."""
        if self.ledger.accounts:
            self.ledger.close_session(self.random.choice(list(self.ledger.accounts)), "actor_lost")

    def restart_learner(self) -> None:
        """Kill -9 of the learner, and back to the last snapshot; its connections break."""
        self.ledger = Ledger.from_json(self.snapshot)
        self.network.clear()
        self.generation += 1
        self.known.clear()
        self.training, self.waiting = [], []

    def event(self) -> None:
        """One thing happens."""
        for actor in self.actors:
            actor.cut = max(0, actor.cut - 1)
        kinds = {
            "act": 45,
            "deliver": 40,
            "train": 6,
            "snapshot": 3,
            "kill": 1,
            "cut": 2,
            "dead": 1,
            "restart": 2,
        }
        match self.random.choices(list(kinds), list(kinds.values()))[0]:
            case "act":
                self.act(self.random.choice(self.actors))
            case "deliver":
                self.deliver()
            case "train":
                self.train()
            case "snapshot":
                self.snapshot = self.ledger.to_json()
            case "kill":
                self.kill_actor()
            case "cut":
                self.random.choice(self.actors).cut = self.random.randint(5, 40)
            case "dead":
                self.declare_dead()
            case "restart":
                self.restart_learner()

    def drain(self) -> None:
        """No more steps and no more faults: everyone hands in what they hold and leaves."""
        self.quiet = True
        for actor in self.actors:
            actor.seal("actor_shutdown")
        for _ in range(2_000):
            for actor in self.actors:
                self.act(actor)
            while self.network:
                self.deliver()
            self.train()
            if all(a.joined and not a.held for a in self.actors):
                break
        else:
            raise AssertionError("the fleet does not come to rest")
        self.train()
        self.train()


@pytest.mark.parametrize("block", range(10))
def test_every_step_is_booked_once_under_random_faults(block: int) -> None:
    """Balanced after every event; in the end the ranges of each session tile what its actor made."""
    verdicts: Counter[str] = Counter()
    for seed in range(block * SCHEDULES // 10, (block + 1) * SCHEDULES // 10):
        fleet = Fleet(seed)
        for _ in range(260):
            fleet.event()
            assert fleet.ledger.totals().imbalance == 0, seed
        fleet.drain()
        live = {actor.sid for actor in fleet.actors}
        for sid in live:
            assert fleet.ledger.accounts[sid].produced == fleet.truth[sid], seed
            assert fleet.ledger.accounts[sid].announced == 0, seed
        for sid, account in fleet.ledger.accounts.items():
            fleet.ledger.close_session(sid, "actor_lost")
            assert account.produced <= fleet.truth[sid], seed  # of the killed, what was told
            assert not account.pending, seed
            assert tiles(account, account.produced), (seed, account)
        totals = fleet.ledger.totals()
        assert (totals.imbalance, totals.in_flight) == (0, 0), seed
        verdicts += Counter({"trained": totals.trained, **totals.dropped})
    assert verdicts.keys() >= {"trained", "stale", "actor_lost", "learner_rollback", "oversize"}, verdicts
    keep(f"ledger-schedules-{block}", {"schedules": SCHEDULES // 10, "steps": dict(verdicts)})


# One session against the plainest possible ledger: a list with one word per step.


class OneSession(RuleBasedStateMachine):
    """`None` announced, "pending", or a verdict."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = opened(A)
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
        self.ledger.announce(A, len(self.steps) + more)
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
        assert self.ledger.receive(A, start, stop) is expected

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), verdict=st.sampled_from(["trained", "stale", "warmup"]))
    def settle(self, data: st.DataObject, verdict: Verdict) -> None:
        start = data.draw(st.sampled_from(sorted(self.pending)))
        stop = self.pending.pop(start)
        self.steps[start:stop] = [verdict] * (stop - start)
        self.ledger.settle(A, start, verdict)

    def drop_announced(self, stop: int, verdict: str) -> None:
        self.steps[:stop] = [verdict if state is None else state for state in self.steps[:stop]]

    @precondition(lambda self: not self.closed)
    @rule(more=st.integers(-9, 9))
    def rollback(self, more: int) -> None:
        base = max(0, len(self.steps) + more)
        self.extend(base)
        self.drop_announced(base, "learner_rollback")
        self.ledger.rollback(A, base)

    @rule()
    def save(self) -> None:
        kept = [None if state == "pending" else state for state in self.steps]
        self.saved = (self.ledger.to_json(), kept, self.closed)

    @rule()
    def restart(self) -> None:
        text, steps, self.closed = self.saved
        self.ledger, self.steps, self.pending = Ledger.from_json(text), steps.copy(), {}
        if self.closed:  # nobody is left to send them again
            self.drop_announced(len(self.steps), "learner_rollback")

    @precondition(lambda self: len(self.steps) > 20)
    @rule()
    def close_session(self) -> None:
        self.ledger.close_session(A, "actor_lost")
        if not self.closed:
            self.drop_announced(len(self.steps), "actor_lost")
        self.closed = True

    @invariant()
    def agrees(self) -> None:
        account, totals = self.ledger.accounts[A], self.ledger.totals()
        assert totals.imbalance == 0
        assert totals.produced == len(self.steps)
        assert totals.in_flight == self.steps.count(None) + self.steps.count("pending")
        assert (account.received, account.settled) == (self.first(None), self.first(None, "pending"))
        runs, at = [], 0
        for state, group in itertools.groupby(self.steps):
            start, at = at, at + len(list(group))
            if state not in (None, "pending"):
                runs.append((start, at, state))
        assert account.recorded == runs


TestOneSession = OneSession.TestCase
TestOneSession.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
)
