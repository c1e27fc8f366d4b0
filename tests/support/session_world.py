"""A deterministic world: real actor sessions and the learner's message handling, without sockets.

Time is a number. Links break, processes freeze, and the learner crashes and restarts from one of its
last checkpoints. Every actor counts the steps that it makes, independently of sessions and of the ledger.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict, deque
from dataclasses import dataclass

import pytest

import actor.connection
import actor.session
from actor.session import Session
from common.config import Config
from common.process import lifecycle
from common.process.parent_link import ParentLink
from common.protocol import codec, messages
from learner.server.admission import Admission
from learner.server.message_handler import MessageHandler
from learner.server.rate_limit import Sender
from learner.server.registry import Replies
from learner.server.scheduler import AdmittedChunk
from learner.verify_ledger import problems
from tests.support.clock import Clock

TURN_SECONDS = 0.25
_LANES_STEPS = 64  # steps between two looks at the session
_CHECKPOINTS = 3
_EMPTY = codec.Packed(0, 0, 0, b"")


@dataclass(slots=True)
class Play:
    """A chunk being made."""

    sid: bytes
    generation: int
    version: int
    steps: int = 0


class Wire:
    """The connection of one actor; stands for `common.protocol.sockets.Client`."""

    def __init__(self, owner: SimulatedActor) -> None:
        self.owner = owner
        self.inbox: deque[list[bytes]] = deque()
        self.peer: bytes | None = None  # the learner's name of this connection, until it is reset

    def send(self, parts: list[bytes]) -> bool:
        """Deliver at once, or lose the message."""
        world = self.owner.world
        if world.learner is None or not self.owner.linked:
            return self.peer is not None
        if self.peer is None:
            self.peer = world.connect(self)
        world.requests.append((self.peer, self.owner.key, parts))
        return True

    def receive(self, timeout_seconds: float = 0.0, also: int | None = None) -> list[bytes] | None:
        """The next message of the learner."""
        return self.inbox.popleft() if self.inbox else None

    def refusal(self) -> str | None:
        """Nobody is refused by keys here."""
        return None

    def close(self, linger_seconds: float = 0.0) -> None:
        """Break the connection."""
        self.inbox.clear()
        self.peer = None


class SimulatedActor:
    """A real session; its environment is a counter."""

    def __init__(self, world: World, key: str) -> None:
        self.world, self.key = world, key
        self.linked, self.frozen, self.until = True, False, 0.0
        self.gone = False  # the learner let it leave
        self.made_steps = 0
        self.play: Play | None = None
        self.wire = Wire(self)
        self.session = Session(self._connect, ParentLink())  # type: ignore[arg-type]  # a Wire acts as a Client

    def _connect(self) -> Wire:
        self.wire = Wire(self)
        return self.wire

    def run(self) -> None:
        """What the actor's loop does between two looks at its session."""
        session, chunk_steps = self.session, self.world.config.rollout.chunk_steps
        session.poll()
        if self.play is None and session.joined and session.credit - session.produced >= chunk_steps:
            self.play = Play(session.sid, session.generation, session.version)
        play = self.play
        if play is None:
            return
        if session.sid == play.sid:
            session.count_steps(_LANES_STEPS)
            self.made_steps += _LANES_STEPS
            play.steps += _LANES_STEPS
        if session.sid != play.sid or session.generation != play.generation:
            if session.sid == play.sid:
                session.skip("old_generation")
            self.play = None
        elif play.steps == chunk_steps:
            session.send_chunk(play.generation, play.version, True, _EMPTY)
            self.play = None


class Learner:
    """One life of the learner."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.outbox: Replies = []
        self.batches: defaultdict[int, list[tuple[bytes, int]]] = defaultdict(list)
        self.handler = MessageHandler(admission, self.outbox, self._submit)

    def _submit(self, chunk: AdmittedChunk) -> None:
        self.batches[chunk.batch].append((chunk.message.sid, chunk.message.offset))


class World:
    """One run: a learner that may be down, its checkpoints, and its actors."""

    def __init__(self, config: Config, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config, self.random, self.clock = config, random.Random(seed), Clock()
        monkeypatch.setattr(actor.connection, "time", self.clock)
        monkeypatch.setattr(actor.session, "time", self.clock)
        monkeypatch.setattr(actor.session, "random", random.Random(seed))
        monkeypatch.setattr(lifecycle, "random", random.Random(seed))
        self.requests: deque[tuple[bytes, str, list[bytes]]] = deque()
        self._wires: dict[bytes, Wire] = {}
        self._checkpoints: deque[tuple[int, str]] = deque(maxlen=_CHECKPOINTS)
        self.version = self.lives = 0
        self.actors: list[SimulatedActor] = []
        self.learner: Learner | None = None
        self.start()

    def join(self, actors: int, key: str) -> None:
        """Add actors that share a key."""
        self.actors += [SimulatedActor(self, key) for _ in range(actors)]

    @property
    def connected(self) -> int:
        """Sessions that this life of the learner has heard from."""
        return len(self.learner.admission.registry.sessions.connected()) if self.learner is not None else 0

    def counted(self, sid: bytes) -> int:
        """Steps of a session in the ledger."""
        assert self.learner is not None
        return self.learner.admission.registry.ledger.accounts[sid].produced

    def keep_checkpoints(self, count: int) -> None:
        """Drop all but the first ones."""
        while len(self._checkpoints) > count:
            self._checkpoints.pop()

    def connect(self, wire_: Wire) -> bytes:
        """Name a new connection."""
        peer = b"%d" % len(self._wires)
        self._wires[peer] = wire_
        return peer

    def start(self) -> None:
        """Start the learner, from a random one of its last checkpoints."""
        admission = Admission(self.config, self.lives, bytes(32), sessions_per_key=100_000)
        if self._checkpoints:
            while len(self._checkpoints) > 1 and self.random.random() < 0.3:
                self._checkpoints.pop()
            self.version, text = self._checkpoints[-1]
            admission.registry.restore(text, self.clock.now)
        else:
            self.version = 0
        self.lives += 1
        self.learner = Learner(admission)
        self.requests.clear()
        for simulated in self.actors:
            simulated.wire.peer = None  # the system resets the connections of a process that ended
        admission.registry.open(self.version, self.clock.now)

    def crash(self) -> None:
        """kill -9."""
        self.learner = None

    def turn(self, messages_limit: int = 1 << 30) -> None:
        """One turn of the network thread, and of the trainer."""
        if self.learner is None:
            return
        admission, now = self.learner.admission, self.clock.now
        for _ in range(min(messages_limit, len(self.requests))):
            peer, key, parts = self.requests.popleft()
            self.learner.handler.handle(Sender(peer, key), parts, now)
            self._answer(self.learner.outbox)
            self.learner.outbox.clear()
        admission.registry.tick(now)
        self._answer(admission.registry.acknowledge())
        while len(self.learner.batches[self.version]) >= self.config.rollout.batch_chunks:
            batch = self.learner.batches.pop(self.version)
            admission.registry.settle(batch, "trained" if self.random.random() < 0.95 else "update_failed")
            self.version += 1
            if self.random.random() < 0.3:
                self.save()
            admission.registry.open(self.version, now)

    def save(self) -> None:
        """Write a checkpoint."""
        assert self.learner is not None
        self._checkpoints.append((self.version, self.learner.admission.registry.to_json(set())))

    def _answer(self, replies: Replies) -> None:
        for peer, message in replies:
            connection = self._wires[peer]
            if connection.peer == peer and connection.owner.linked and not connection.owner.frozen:
                connection.inbox.append(codec.encode(message))
                connection.owner.gone = isinstance(message, messages.ByeAck)

    def finish(self) -> Counter[str]:
        """Let every actor leave and settle what is left; returns the sums of the ledger.

        What the ledger says is compared with its own ranges and with what the actors counted.
        """
        for _ in range(400):
            self.clock.now += TURN_SECONDS
            for simulated in self.actors:
                if simulated.gone:
                    continue
                simulated.run()
                if simulated.play is None and simulated.session.joined:
                    session = simulated.session
                    bye = messages.Bye(sid=session.sid, produced=session.produced)
                    simulated.wire.send(codec.encode(bye))
            self.turn()
        assert self.learner is not None
        admission = self.learner.admission
        for batch in self.learner.batches.values():
            admission.registry.settle(batch, "stale")
        totals, saved = admission.registry.ledger.totals(), json.loads(admission.registry.ledger.to_json())
        return Counter(
            missing=sum(one.made_steps for one in self.actors) - totals.produced,
            in_flight=totals.in_flight,
            imbalance=totals.imbalance,
            problems=len(list(problems(saved, saved["verdicts"].get("trained", 0)))),
        )
