"""A ledger with simulated actors, a network that loses messages, and a learner that restarts.

Each actor counts its own steps, independently of the ledger. The network also repeats and reorders messages.
The learner's side is the part of admission that changes the ledger.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from typing import Any

from learner.server.ledger import Account, Ledger, Receipt

ACTORS = 3
_EVENTS = {  # weights of the events
    "act": 45,
    "deliver": 40,
    "train": 6,
    "checkpoint": 3,
    "kill actor": 1,
    "disconnect": 2,
    "expire": 1,
    "restart learner": 2,
}


@dataclass
class SimulatedSession:
    """The present session of an actor, and the messages that it keeps until they are settled."""

    sid: bytes
    generation: int = -1
    joined: bool = False
    produced: int = 0
    sealed: int = 0
    held: list[tuple[int, int, str]] = field(default_factory=list)  # start, stop, "data" or a skip's reason
    disconnected_events: int = 0  # number of events until its messages pass again

    @property
    def base(self) -> int:
        return self.held[0][0] if self.held else self.sealed

    def seal(self, kind: str) -> None:
        if self.produced > self.sealed:
            self.held.append((self.sealed, self.produced, kind))
            self.sealed = self.produced

    def begin(self, sid: bytes, produced: int) -> None:
        """Begin another session, in which some steps without data are produced."""
        self.sid, self.generation, self.joined = sid, -1, False
        self.produced, self.sealed, self.held, self.disconnected_events = produced, 0, [], 0
        self.seal("actor_lost")


class LedgerSimulation:
    """Actors, a learner with its checkpoint, and the steps that each session made."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ledger, self.generation = Ledger(), 0
        self.checkpoint = self.ledger.to_json()
        self.joined: set[bytes] = set()  # sessions of this generation
        self.training: list[tuple[bytes, int]] = []
        self.admitted: list[tuple[bytes, int]] = []
        self.network: list[tuple[str, SimulatedSession, tuple[Any, ...]]] = []
        self.made_steps: dict[bytes, int] = {}  # by session
        self.actors = [SimulatedSession(self.new_sid()) for _ in range(ACTORS)]
        self.draining = False

    def new_sid(self) -> bytes:
        sid = (len(self.made_steps) + 1).to_bytes(16)
        self.made_steps[sid] = 0
        return sid

    # The actors.

    def act(self, actor: SimulatedSession) -> None:
        """Step, seal, or send a message."""
        choice = self.random.random()
        if choice < 0.4 and not self.draining:
            actor.produced += self.random.randint(1, 4)
            self.made_steps[actor.sid] = actor.produced
        elif choice < 0.6:
            actor.seal("data" if self.random.random() < 0.9 else "oversize")
        elif not actor.joined:
            self.send("hello", actor, actor.generation, actor.base, actor.produced)
        elif actor.held and choice < 0.9:
            first = self.random.random() < 0.7
            steps = actor.held[0] if first else self.random.choice(actor.held)
            self.send("steps", actor, *steps, actor.produced)
        else:
            self.send("heartbeat", actor, actor.produced)

    def on_reply(self, actor: SimulatedSession, kind: str, generation: int, settled: int) -> None:
        """Handle a reply of the learner."""
        if kind == "lost":
            self.begin_session(actor, settled)
        elif kind == "hello required":
            actor.joined = False
        elif kind == "welcome" or generation == actor.generation:
            actor.joined, actor.generation = True, generation
            actor.held = [held for held in actor.held if held[1] > settled]

    def begin_session(self, actor: SimulatedSession, counted: int) -> None:
        """Begin a new session, which accounts for the steps that the learner did not count in the former."""
        uncounted, self.made_steps[actor.sid] = max(0, actor.produced - counted), counted
        actor.begin(self.new_sid(), uncounted)
        self.made_steps[actor.sid] = uncounted

    # The network.

    def send(self, kind: str, actor: SimulatedSession, *facts: object, sid: bytes = b"") -> None:
        """Send a message once, twice, or, above all while the actor is disconnected, not at all."""
        copies = 1 if self.draining else self.random.choices((0, 1, 2), (5, 90, 5))[0]
        if self.draining or not actor.disconnected_events:
            self.network += [(kind, actor, (sid or actor.sid, *facts))] * copies

    def deliver(self) -> None:
        """Deliver one message, sometimes out of order."""
        if self.network:
            late = not self.draining and self.random.random() < 0.3
            kind, actor, facts = self.network.pop(self.random.randrange(len(self.network)) if late else 0)
            if kind == "hello":
                self.on_hello(actor, *facts)
            elif kind in ("steps", "heartbeat"):
                self.on_progress(kind, actor, *facts)
            elif facts[0] == actor.sid:
                self.on_reply(actor, kind, *facts[1:])

    # The learner.

    def on_hello(
        self, actor: SimulatedSession, sid: bytes, generation: int, base: int, produced: int
    ) -> None:
        account = self.ledger.accounts.get(sid)
        ended = account.closed if account is not None else generation == self.generation
        if ended:
            counted = account.produced if account else produced
            self.send("lost", actor, self.generation, counted, sid=sid)
            return
        account = self.ledger.open(sid)
        self.ledger.announce(sid, produced)
        self.ledger.rollback(sid, base)
        self.joined.add(sid)
        self.send("welcome", actor, self.generation, account.settled)

    def on_progress(self, kind: str, actor: SimulatedSession, sid: bytes, *facts: Any) -> None:
        account = self.ledger.accounts.get(sid)
        if sid not in self.joined or account is None or account.closed:
            self.send("hello required", actor, self.generation, 0)
            return
        self.ledger.announce(sid, facts[-1])
        if kind == "steps" and self.ledger.receive(sid, facts[0], facts[1]) is Receipt.NEW:
            verdict = self.random.choice(["stale", "surplus", "old_generation", "invalid"])
            if facts[2] != "data":
                verdict = facts[2]
            if facts[2] == "data" and self.random.random() < 0.8:
                self.admitted.append((sid, facts[0]))
            else:
                self.ledger.settle(sid, facts[0], verdict)  # type: ignore[arg-type]
        self.send("ack", actor, self.generation, account.settled)

    def train(self) -> None:
        """Settle the batch in training, in any order, and begin the next one."""
        self.random.shuffle(self.training)
        verdict = "update_failed" if self.random.random() < 0.1 else "trained"
        for sid, start in self.training:
            self.ledger.settle(sid, start, verdict)  # type: ignore[arg-type]
        self.training, self.admitted = self.admitted, []

    # Faults.

    def kill_actor(self) -> None:
        """Replace an actor; sometimes its parent process reports the steps that it made."""
        actor = self.random.choice(self.actors)
        account = self.ledger.accounts.get(actor.sid)
        if account is not None and self.random.random() < 0.5:
            self.ledger.announce(actor.sid, self.made_steps[actor.sid])
            self.ledger.close_session(actor.sid, "actor_lost")
        self.actors[self.actors.index(actor)] = SimulatedSession(self.new_sid())

    def expire_lease(self) -> None:
        """Close a session, whose actor may still run."""
        if self.ledger.accounts:
            self.ledger.close_session(self.random.choice(list(self.ledger.accounts)), "actor_lost")

    def restart_learner(self) -> None:
        """Restore the checkpoint; every message on its way is lost."""
        self.ledger = Ledger.from_json(self.checkpoint)
        self.network.clear()
        self.generation += 1
        self.joined.clear()
        self.training, self.admitted = [], []

    def run_event(self) -> None:
        """Run one random event."""
        for actor in self.actors:
            actor.disconnected_events = max(0, actor.disconnected_events - 1)
        match self.random.choices(list(_EVENTS), list(_EVENTS.values()))[0]:
            case "act":
                self.act(self.random.choice(self.actors))
            case "deliver":
                self.deliver()
            case "train":
                self.train()
            case "checkpoint":
                self.checkpoint = self.ledger.to_json()
            case "kill actor":
                self.kill_actor()
            case "disconnect":
                self.random.choice(self.actors).disconnected_events = self.random.randint(5, 40)
            case "expire":
                self.expire_lease()
            case "restart learner":
                self.restart_learner()

    def drain(self) -> None:
        """Let every actor submit the steps that it holds, without new steps and without faults."""
        self.draining = True
        for actor in self.actors:
            actor.seal("actor_shutdown")
        for _ in range(2_000):
            for actor in self.actors:
                self.act(actor)
            while self.network:
                self.deliver()
            self.train()
            if all(actor.joined and not actor.held for actor in self.actors):
                break
        else:
            raise AssertionError("expected every actor to submit its steps within 2,000 rounds")
        self.train()
        self.train()


def covers(account: Account, stop: int) -> bool:
    """Whether the steps before `settled` and the recorded ranges cover [0, stop) without gap or overlap."""
    edges = [
        account.settled_steps.total(),
        *itertools.chain.from_iterable((start, end) for start, end, _ in account.recorded),
        stop,
    ]
    return edges[::2] == edges[1::2] and all(start < end for start, end, _ in account.recorded)
