"""A deterministic simulation: real actor sessions and the learner's message handling, without sockets.

Time is a number. Tests disconnect and stop actors, and kill the learner, which restarts from one of its
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

TICK_SECONDS = 0.25
_POLL_STEPS = 64  # steps of an actor between two polls of its session
CHECKPOINTS = 3
_EMPTY = codec.Packed(0, 0, b"")


@dataclass(slots=True)
class PartialChunk:
    """A chunk that an actor is making."""

    sid: bytes
    generation: int
    version: int
    steps: int = 0


class SimulatedSocket:
    """The connection of one actor; implements `common.protocol.sockets.DealerSocket`."""

    def __init__(self, owner: SimulatedActor) -> None:
        self.owner = owner
        self.received: deque[list[bytes]] = deque()
        self.peer: bytes | None = None  # the learner's name of this connection, until it is reset

    def send(self, parts: list[bytes]) -> bool:
        """Deliver a message at once; it is lost without a connection."""
        world = self.owner.world
        if world.learner is None or not self.owner.connected:
            return self.peer is not None
        if self.peer is None:
            self.peer = world.connect(self)
        world.requests.append((self.peer, self.owner.key, parts))
        return True

    def receive(self, timeout_seconds: float = 0.0, wake_descriptor: int | None = None) -> list[bytes] | None:
        """The next message of the learner, or None."""
        return self.received.popleft() if self.received else None

    def refusal(self, known: bool = False) -> str | None:
        """None: the simulation has no access control."""
        return None

    def close(self, linger_seconds: float = 0.0) -> None:
        """End the connection."""
        self.received.clear()
        self.peer = None


class SimulatedActor:
    """A real session with a counter for its environments."""

    def __init__(self, world: World, key: str) -> None:
        self.world, self.key = world, key
        self.connected, self.stopped, self.fault_until = True, False, 0.0
        self.left = False  # the learner acknowledged its Bye
        self.made_steps = 0
        self.chunk: PartialChunk | None = None
        self.socket = SimulatedSocket(self)
        self.session = Session(self._connect, ParentLink())  # type: ignore[arg-type]  # it implements DealerSocket

    def _connect(self) -> SimulatedSocket:
        self.socket = SimulatedSocket(self)
        return self.socket

    def run(self) -> None:
        """Poll the session once, and make steps of a chunk."""
        session, chunk_steps = self.session, self.world.config.rollout.chunk_steps
        session.poll()
        if self.chunk is None and session.joined and session.credit - session.produced >= chunk_steps:
            self.chunk = PartialChunk(session.sid, session.generation, session.version)
        chunk = self.chunk
        if chunk is None:
            return
        if session.sid == chunk.sid:
            session.count_steps(_POLL_STEPS)
            self.made_steps += _POLL_STEPS
            chunk.steps += _POLL_STEPS
        if session.sid != chunk.sid or session.generation != chunk.generation:
            if session.sid == chunk.sid:
                session.skip("old_generation")
            self.chunk = None
        elif chunk.steps == chunk_steps:
            session.send_chunk(chunk.generation, chunk.version, True, _EMPTY)
            self.chunk = None


class Learner:
    """One process of the learner."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.outbox: Replies = []
        self.batches: defaultdict[int, list[tuple[bytes, int]]] = defaultdict(list)
        self.handler = MessageHandler(admission, self.outbox.extend, self._submit)

    def _submit(self, chunk: AdmittedChunk) -> None:
        self.batches[chunk.batch].append((chunk.message.sid, chunk.message.offset))


class World:
    """One run: a learner that may have been killed, its checkpoints, and its actors."""

    sessions_per_key = 100_000

    def __init__(self, config: Config, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config, self.random, self.clock = config, random.Random(seed), Clock()
        monkeypatch.setattr(actor.connection, "time", self.clock)
        monkeypatch.setattr(actor.session, "time", self.clock)
        monkeypatch.setattr(actor.session, "random", random.Random(seed))
        monkeypatch.setattr(lifecycle, "random", random.Random(seed))
        self.requests: deque[tuple[bytes, str, list[bytes]]] = deque()
        self._sockets: dict[bytes, SimulatedSocket] = {}
        self._checkpoints: deque[tuple[int, str]] = deque(maxlen=CHECKPOINTS)
        self.version = self.next_generation = 0
        self.actors: list[SimulatedActor] = []
        self.learner: Learner | None = None
        self.start()

    def join(self, actors: int, key: str) -> None:
        """Add actors that share a key."""
        self.actors += [SimulatedActor(self, key) for _ in range(actors)]

    @property
    def connected(self) -> int:
        """Number of sessions that are connected to the learner."""
        return len(self.learner.admission.registry.sessions.connected()) if self.learner is not None else 0

    def counted(self, sid: bytes) -> int:
        """Steps of a session in the ledger."""
        assert self.learner is not None
        return self.learner.admission.registry.ledger.accounts[sid].produced

    def keep_checkpoints(self, count: int) -> None:
        """Keep only the first checkpoints."""
        while len(self._checkpoints) > count:
            self._checkpoints.pop()

    def connect(self, socket: SimulatedSocket) -> bytes:
        """Name a new connection."""
        peer = b"%d" % len(self._sockets)
        self._sockets[peer] = socket
        return peer

    def start(self) -> None:
        """Start the learner from a random one of its last checkpoints."""
        admission = Admission(self.config, self.next_generation, bytes(32), self.sessions_per_key)
        if self._checkpoints:
            while len(self._checkpoints) > 1 and self.random.random() < 0.3:
                self._checkpoints.pop()
            self.version, text = self._checkpoints[-1]
            admission.registry.restore(text, self.clock.now)
        else:
            self.version = 0
        self.next_generation += 1
        self.learner = Learner(admission)
        self.requests.clear()
        for simulated in self.actors:
            simulated.socket.peer = None  # the system resets the connections of a process that ended
        admission.registry.open(self.version, self.clock.now)

    def kill_learner(self) -> None:
        """Kill the learner as SIGKILL does."""
        self.learner = None

    def run_learner(self, messages_limit: int = 1 << 30) -> None:
        """Run one loop of the network thread, with a limit of messages, and the updates that are due."""
        if self.learner is None:
            return
        admission, now = self.learner.admission, self.clock.now
        for _ in range(min(messages_limit, len(self.requests))):
            peer, key, parts = self.requests.popleft()
            self.learner.handler.handle(Sender(peer, key), parts, now)
            self._send(self.learner.outbox)
            self.learner.outbox.clear()
        admission.registry.tick(now)
        self._send(admission.registry.acknowledge())
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

    def _send(self, replies: Replies) -> None:
        for peer, message in replies:
            socket = self._sockets[peer]
            if socket.peer == peer and socket.owner.connected and not socket.owner.stopped:
                socket.received.append(codec.encode(message))
                socket.owner.left = isinstance(message, messages.ByeAck)

    def finish(self) -> Counter[str]:
        """Let every actor leave and settle the remaining chunks; returns the errors of the ledger.

        The ledger is compared with its own ranges and with the steps that the actors counted.
        """
        for _ in range(400):
            self.clock.now += TICK_SECONDS
            for simulated in self.actors:
                if simulated.left:
                    continue
                simulated.run()
                if simulated.chunk is None and simulated.session.joined:
                    session = simulated.session
                    bye = messages.Bye(sid=session.sid, produced=session.produced)
                    simulated.socket.send(codec.encode(bye))
            self.run_learner()
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
