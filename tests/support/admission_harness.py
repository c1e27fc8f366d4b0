"""An `Admission` without sockets: tests send it messages, set its clock and read what follows."""

from __future__ import annotations

from dataclasses import replace

from common.config import Config, PPOConfig, RolloutConfig
from common.protocol import codec
from common.protocol import messages as m
from learner.server.admission import Admission
from learner.server.scheduler import AdmittedChunk

CONFIG = Config(rollout=RolloutConfig(steps=5, lanes=2, batch_lanes=6), ppo=PPOConfig(minibatches=3))
ONE_CHUNK_BATCH = replace(
    CONFIG, rollout=RolloutConfig(steps=5, lanes=2, batch_lanes=2), ppo=PPOConfig(minibatches=1)
)
OVERLAPPED = replace(CONFIG, max_lag=1)
CHUNK_STEPS = CONFIG.rollout.chunk_steps  # 10; a batch of CONFIG takes 3 chunks
GENERATION = 4
HUGE = (1 << 62) - 1  # a number of steps that no session reaches
_TARGET, _BODY = bytes(32), b"arrays"


class AdmissionHarness:
    """An Admission, its clock, and the results of the messages so far.

    A peer is a connection; a test uses one name for a session and for its connection.
    """

    def __init__(self, generation: int = GENERATION, config: Config = CONFIG) -> None:
        self.admission, self.now = Admission(config, generation, _TARGET), 100.0
        self.registry = self.admission.registry
        self.replies: list[tuple[bytes, m.Message]] = []
        self.chunks: list[AdmittedChunk] = []
        self.violations: list[str] = []

    def send(self, peer: str, message: m.Message) -> list[m.Message]:
        """Send a message in a loop of its own; return the replies to that peer."""
        self.replies += self.registry.acknowledge()  # ends the loop before
        self.deliver(peer, message)
        return self.replies_to(peer)

    def deliver(self, peer: str, message: m.Message, key: str = "") -> None:
        """Send a message on a connection with a key, and keep what follows from it."""
        result = self.admission.on(peer.encode(), message, self.now, key)
        self.replies += result.replies
        self.chunks += result.chunks
        self.violations += result.violations

    def replies_to(self, peer: str) -> list[m.Message]:
        """Return the replies to that peer since the last call."""
        self.replies += self.registry.acknowledge()
        replies = [message for to, message in self.replies if to == peer.encode()]
        self.replies = [entry for entry in self.replies if entry[0] != peer.encode()]
        return replies

    def take_violations(self) -> list[str]:
        """Return the violations since the last call."""
        found, self.violations = self.violations, []
        return found

    def wait(self, seconds: float) -> None:
        """Let time pass without messages, with a tick each quarter of a second."""
        for _ in range(round(seconds * 4)):
            self.now += 0.25
            self.registry.tick(self.now)
            self.replies += self.registry.acknowledge()

    def send_hello(self, name: str, **facts: object) -> list[m.Message]:
        """Send a Hello; return the replies."""
        values = {"generation": -1, "base": 0, "produced": 0, "former": {}} | facts
        return self.send(name, m.Hello(sid=sid(name), host="host", pid=1, software="0", **values))  # type: ignore[arg-type]

    def send_heartbeat(self, name: str, produced: int, **stats: float) -> list[m.Message]:
        """Send a heartbeat; return the replies."""
        generation = self.registry.generation
        return self.send(
            name, m.Heartbeat(sid=sid(name), generation=generation, produced=produced, stats=stats)
        )

    def join(self, *names: str) -> None:
        """Add sessions that have sent a heartbeat."""
        for name in names:
            self.send_hello(name)
            self.send_heartbeat(name, 0)

    def chunk(self, name: str, offset: int = 0, version: int = 0, **facts: object) -> m.ChunkMessage:
        """Make the message of a chunk, with its checksum unless `facts` has another."""
        values = {
            "generation": self.registry.generation,
            "steps": CHUNK_STEPS,
            "fresh": offset == 0,
            "truncations": 0,
            "observation_bytes": 0,
            "crc": 0,
            "body": _BODY,
        } | facts
        produced = offset + int(str(values["steps"]))
        chunk = m.ChunkMessage(sid=sid(name), version=version, offset=offset, produced=produced, **values)  # type: ignore[arg-type]
        return chunk if "crc" in facts else replace(chunk, crc=codec.checksum(chunk))

    def send_chunk(self, name: str, offset: int = 0, version: int = 0, **facts: object) -> list[m.Message]:
        """Send a chunk; return the replies."""
        return self.send(name, self.chunk(name, offset, version, **facts))

    def open_batch(self, version: int = 0) -> None:
        """Open the batch of a version, and discard the Acks."""
        self.registry.open(version, self.now)
        self.registry.acknowledge()
        self.replies.clear()

    def granted(self) -> set[str]:
        """The sessions with an open grant."""
        return {
            session.sid.decode().strip()
            for session in self.registry.sessions
            if self.registry.scheduler.is_collecting(session.sid)
        }

    def admitted(self) -> list[tuple[str, int]]:
        """The session and the offset of each admitted chunk, in order of arrival."""
        return [(a.message.sid.decode().strip(), a.message.offset) for a in self.chunks]

    def dropped(self) -> dict[str, int]:
        """Dropped steps by reason; checks that the ledger balances."""
        totals = self.registry.ledger.totals()
        assert totals.imbalance == 0
        return totals.dropped

    def restarted(self, local: set[bytes]) -> AdmissionHarness:
        """The next generation, restored from a checkpoint of this one with these local sessions."""
        successor = AdmissionHarness(GENERATION + 1)
        successor.registry.restore(self.registry.to_json(local), successor.now)
        return successor


def batch_of(config: Config, chunks: int) -> Config:
    """The configuration with batches of so many chunks."""
    rollout = replace(config.rollout, batch_lanes=chunks * config.rollout.lanes)
    return replace(config, rollout=rollout, ppo=replace(config.ppo, minibatches=1))


def sid(name: str) -> bytes:
    """The session of that name."""
    return name.ljust(16).encode()


def last_ack(replies: list[m.Message]) -> m.Ack:
    """The newest Ack."""
    return next(reply for reply in reversed(replies) if isinstance(reply, m.Ack))
