"""A learner with honest and lying actors on a clock that a test sets; a model checks every result."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, deque
from collections.abc import Callable

import pytest

from common.config import Config, PPOConfig, RNDConfig, RolloutConfig
from common.protocol import codec
from common.protocol import messages as m
from learner.server.admission import Admission
from learner.server.registry import Replies
from learner.verify_ledger import problems
from tests.support import session_oracle
from tests.support.lying_actor import LyingActor
from tests.support.run_model import LEASE_SECONDS, ModelSession, RunModel
from tests.support.session_oracle import Delivery
from tests.support.session_world import CHECKPOINTS, SimulatedActor, World

CONFIG = (
    Config(  # chunks of 128 steps, 3 in a batch, and few updates, so that the limit of a session is small
        total_steps=3_072,
        max_lag=1,
        rollout=RolloutConfig(steps=64, lanes=2, batch_lanes=6),
        ppo=PPOConfig(minibatches=3),
        rnd=RNDConfig(warmup_steps=0),
    )
)
HONEST_KEY = "fleet"
_HONEST, _SESSIONS_PER_KEY = 2, 3
_LOOP_SECONDS = 0.9  # less than a stall
_STALL_SECONDS = 1.0
_END_LOOPS = 400
_LAST_LIES = 8  # after the drain


class FuzzWorld(World):
    """A run that lasts for one sequence of events."""

    sessions_per_key = _SESSIONS_PER_KEY

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trace: list[str] = []  # what happened, one line each
        self.reached: Counter[str] = Counter()  # replies, violations and fates of steps
        self._snapshots: deque[RunModel] = deque(maxlen=CHECKPOINTS)
        self._grants: list[bytes] = []
        self._patch = monkeypatch
        super().__init__(CONFIG, 0, monkeypatch)
        self.join(_HONEST, HONEST_KEY)
        self.liars = [LyingActor("x", "hostile"), LyingActor("y", "hostile too")]

    @property
    def admission(self) -> Admission:
        """Admission of the present learner process."""
        assert self.learner is not None
        return self.learner.admission

    # The learner, with the model beside it.

    def start(self) -> None:
        """Start the learner from a random one of its last checkpoints, and the model from the same one."""
        super().start()
        while len(self._snapshots) > len(self._checkpoints):
            self._snapshots.pop()
        saved = self._snapshots[-1] if self._snapshots else RunModel(CONFIG, _SESSIONS_PER_KEY)
        self.model = saved.restored(self.next_generation - 1, self.clock.now)
        self.model.open(self.version)
        self._looped_at: float | None = None
        scheduler = self.admission.registry.scheduler
        decide = scheduler.grant

        def grant(now: float) -> list[bytes]:
            served = decide(now)
            self._grants += served
            return served

        self._patch.setattr(scheduler, "grant", grant)

    def save(self) -> None:
        """Write a checkpoint, and copy the model."""
        super().save()
        self._snapshots.append(self.model.restored(self.model.generation, self.clock.now))

    def handle(self, peer: bytes, key: str, message: m.Message, honest: bool = False) -> None:
        """Pass a message to admission, and check the result."""
        assert self.learner is not None
        batch = self.admission.registry.scheduler.batch_of(getattr(message, "sid", b""))
        self.note(f"{peer.decode()} sends {message}")
        result = self.admission.on(peer, message, self.clock.now, key)
        self.reached.update(_name(reply) for _, reply in result.replies)
        self.reached["violation"] += len(result.violations)
        refusals = [x for _, x in result.replies if isinstance(x, m.Reject) and x.code != "lost"]
        assert not (honest and (result.violations or refusals)), f"an honest actor: {result}"
        session_oracle.check(self.model, Delivery(peer, key, message, result, batch, self.clock.now))
        for chunk in result.chunks:
            self.learner.batches[chunk.batch].append((chunk.message.sid, chunk.message.offset))
        self.check_and_send(result.replies)

    def deliver(self, count: int) -> None:
        """Deliver messages of honest actors."""
        for _ in range(min(count, len(self.requests))):
            peer, key, parts = self.requests.popleft()
            self.handle(peer, key, codec.decode(parts), honest=True)

    def damage_next_chunk(self) -> None:
        """Deliver the messages of honest actors until a chunk, and damage its first copy."""
        while self.requests:
            peer, key, parts = self.requests[0]
            message = codec.decode(parts)
            session = self.model.sessions.get(getattr(message, "sid", b""), ModelSession(""))
            if isinstance(message, m.ChunkMessage) and session.peer == peer and not session.damaged_copies:
                self.requests.popleft()
                damaged = dataclasses.replace(message, offset=self.random.getrandbits(40))
                self.handle(peer, key, damaged, honest=True)
                return
            self.deliver(1)

    def lie(self, liar: LyingActor) -> None:
        """Send a message of a lying actor."""
        # Sessions that the learner knows: others of another key have ids that nobody can guess.
        others = [one.session.sid for one in self.actors if one.session.sid in self.model.sessions]
        peer, message = liar.message(self.random, self.model, others)
        self.handle(peer, liar.key, message)

    def loop(self, seconds: float = _LOOP_SECONDS) -> None:
        """Let time pass, let honest actors run, and run one loop of the learner."""
        registry = self.admission.registry
        self.clock.now += seconds
        for actor in self.actors:
            if not actor.stopped:
                self._run(actor)
        if self._looped_at is not None and self.clock.now - self._looped_at > _STALL_SECONDS:
            self.model.extend(self.clock.now - self._looped_at)
        self._looped_at = self.clock.now
        registry.tick(self.clock.now)
        self.model.expire({session.sid for session in registry.sessions}, self.clock.now)
        self.check_and_send([])
        self.deliver(len(self.requests))

    def check_and_send(self, replies: Replies) -> None:
        """Check replies, sums and tables; send replies to honest actors."""
        registry = self.admission.registry
        replies = replies + registry.acknowledge()
        self.model.on_grants(self._grants)
        self._grants.clear()
        self.model.on_credit(replies)
        self._send([(peer, reply) for peer, reply in replies if peer in self._sockets])
        self.model.check_totals(registry.ledger.totals())
        live = self.model.live()
        assert {session.sid for session in registry.sessions} == live.keys()
        assert registry.flows.keys() == {sid for sid, session in live.items() if session.peer is not None}
        assert registry.ledger.accounts.keys() == self.model.sessions.keys()
        assert len({session.slot for session in registry.sessions}) == len(live), "a slot with two sessions"

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.clock.now:8.2f} s  {text}")

    # The trainer.

    def train(self) -> None:
        """Update on the present batch if it is whole; sometimes the update fails, or chunks are dropped."""
        assert self.learner is not None
        registry, batch = self.admission.registry, self.learner.batches[self.version]
        assert len(batch) <= CONFIG.rollout.batch_chunks, "a batch beyond its size"
        if len(batch) < CONFIG.rollout.batch_chunks:
            return
        trained = self.random.random() < 0.85
        used = list(batch) if trained else batch[: self.random.randint(1, len(batch))]
        registry.settle(used, "trained" if trained else "update_failed")
        for sid, offset in used:
            batch.remove((sid, offset))
            self.model.settle(sid, offset, "trained" if trained else "update_failed")
        if trained:
            self.version += 1
            self.model.open(self.version)
            registry.open(self.version, self.clock.now)
        else:
            self.model.withdraw(self.version, len(used))
            registry.reopen(len(used), self.clock.now)
        self.check_and_send([])

    def reject_chunk(self) -> None:
        """Report that an admitted chunk of a lying actor cannot be decoded."""
        assert self.learner is not None
        sessions = self.model.sessions
        chunks = [(batch, *one) for batch, some in self.learner.batches.items() for one in some]
        hostile = [chunk for chunk in chunks if sessions[chunk[1]].key != HONEST_KEY]
        if hostile:
            batch, sid, offset = self.random.choice(hostile)
            self.learner.batches[batch].remove((sid, offset))
            self.model.settle(sid, offset, "invalid")
            self.model.withdraw(batch)
            sessions[sid].late_violation = not sessions[sid].closed
            self.admission.registry.reject_chunk(sid, offset, batch, self.clock.now)
            self.check_and_send([])

    # The end of sessions.

    def revoke(self, key: str) -> None:
        """Revoke a key, which is authorised again later."""
        self.admission.registry.revoke({HONEST_KEY, *(liar.key for liar in self.liars)} - {key})
        for session in self.model.live().values():
            if session.key == key:
                session.close("revoked")
        self.check_and_send([])

    def expel(self, peer: bytes) -> None:
        """End the session of a connection."""
        replies = self.admission.expel(peer, "too many violations")
        ended = [session for session in self.model.live().values() if session.peer == peer]
        for session in ended:
            session.close("revoked")
        assert [to for to, _ in replies] == [peer] * len(ended)
        self.check_and_send(replies)

    def end(self) -> None:
        """Let honest actors return and leave, end the run, and compare all steps."""
        for actor in self.actors:
            actor.connected, actor.stopped = True, False
        self._until(lambda: all(self._is_connected(actor) for actor in self.actors))
        finished = self.random.random() < 0.5
        connected = [session.peer for session in self.model.live().values() if session.peer is not None]
        replies = self.admission.registry.drain(finished)
        self.model.drain(finished)
        assert sorted(peer for peer, _ in replies) == sorted(connected)
        self.check_and_send(replies)
        for _ in range(_LAST_LIES):
            self.lie(self.random.choice(self.liars))
        self._until(lambda: all(actor.left for actor in self.actors))
        self.admission.registry.close_remaining()
        self.model.close_remaining()
        self.check_and_send([])
        ledger = self.admission.registry.ledger
        totals, saved = ledger.totals(), json.loads(ledger.to_json())
        self.reached += Counter({"trained": totals.trained, **totals.dropped})
        assert totals.in_flight == 0
        assert list(problems(saved, saved["verdicts"].get("trained", 0))) == []
        honest = sum(one.produced for one in self.model.sessions.values() if one.key == HONEST_KEY)
        made = sum(actor.made_steps for actor in self.actors)
        assert honest == made, f"expected {made} steps of honest actors, got {honest}"

    def _until(self, condition: Callable[[], bool]) -> None:
        for _ in range(_END_LOOPS):
            if condition():
                return
            self.loop()
        raise AssertionError(f"expected honest actors to return and leave within {_END_LOOPS} loops")

    def _is_connected(self, actor: SimulatedActor) -> bool:
        """Whether the session of an actor is known on both sides, and its lease does not end soon."""
        session = self.model.sessions.get(actor.session.sid)
        if session is None or session.peer is None or not actor.session.joined:
            return False
        return session.expires > self.clock.now + LEASE_SECONDS / 2

    def _run(self, actor: SimulatedActor) -> None:
        """Run an honest actor, which leaves if the learner drains."""
        if actor.left:
            return
        actor.run()
        session = actor.session
        if self.model.draining is not None and actor.chunk is None and session.joined:
            actor.socket.send(codec.encode(m.Bye(sid=session.sid, produced=session.produced)))


def _name(reply: m.Message) -> str:
    """The kind of a reply."""
    return f"Reject {reply.code}" if isinstance(reply, m.Reject) else type(reply).__name__
