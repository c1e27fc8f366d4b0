"""Fake actors: sessions of the product on real sockets that send recorded chunks.

They implement the whole protocol, because they use `actor.session`; only the emulator and the networks are
missing. Each counts its steps by session, for a comparison with the learner's ledger. `FakeFleet` runs many
actors in one thread. `FleetProcess` runs one fleet in its own process (`python -m tests.support.fake_fleet`),
which ends when its standard input is closed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import structlog
import zmq

from actor.metrics import PHASES
from actor.rollout import Rollout
from actor.session import Session
from common import envs
from common.config import EnvConfig, RolloutConfig
from common.keys.curve import ActorKeys
from common.keys.files import read_key_file
from common.phase_timer import PhaseTimer
from common.process.parent_link import ParentLink
from common.protocol import codec
from common.protocol.messages import Ack, Message
from common.protocol.sockets import Context, DealerSocket
from common.rng import RngKey
from tests.support.protocol_peer import ProtocolPeer

_SWEEP_SECONDS = 0.25  # time between two polls of all sessions, for heartbeats and timeouts
_END_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Recording:
    """One chunk, ready to be sent."""

    steps: int
    packed: codec.Packed


def record(env: EnvConfig, rollout: RolloutConfig, chunks: int, seed: int = 1) -> list[Recording]:
    """Collect and encode chunks with uniformly random actions."""
    collector = Rollout(envs.make(env, rollout.lanes), envs.spaces(env), rollout, PhaseTimer(PHASES))
    collector.reset(RngKey(seed, 0, 0, True))
    recordings = []
    for _ in range(chunks):
        chunk = collector.collect(None, lambda: True)
        assert chunk is not None
        recordings.append(Recording(rollout.chunk_steps, codec.pack(chunk)))
    return recordings


class FakeActor(ProtocolPeer):
    """One session of the product that sends the next recording as soon as it is joined and has credit."""

    def __init__(
        self,
        context: Context,
        endpoint: str,
        keys: ActorKeys | None,
        recordings: Sequence[Recording],
        on_connect: Callable[[FakeActor], None],
    ) -> None:
        super().__init__(context, endpoint, keys)
        self._recordings, self._on_connect = recordings, on_connect
        self._next = 0
        self._unacknowledged: deque[tuple[int, float]] = deque()  # end of each chunk, and when it was sent
        self._sid = b""
        self.made: Counter[bytes] = Counter()  # steps of each session
        self.ack_seconds: list[float] = []
        self.session = Session(self.connect, ParentLink())

    def connect(self) -> DealerSocket:
        """Open the connection and notify the fleet."""
        socket = super().connect()
        self._on_connect(self)
        return socket

    @property
    def ready(self) -> bool:
        """Whether the session has credit for the next chunk."""
        session = self.session
        steps = self._recordings[self._next].steps
        return session.joined and not session.finished and session.credit - session.produced >= steps

    def send_chunk(self) -> None:
        """Count the steps of the next recording, and send it."""
        recording, session = self._recordings[self._next], self.session
        self._next = (self._next + 1) % len(self._recordings)
        if session.sid != self._sid:  # the learner ended the former session
            self._sid = session.sid
            self._unacknowledged.clear()
        session.count_steps(recording.steps)
        self.made[session.sid] += recording.steps
        self._unacknowledged.append((session.produced, time.monotonic()))
        session.send_chunk(session.generation, session.version, True, recording.packed)

    def on_message(self, message: Message) -> None:
        """Record the time from the sending of each chunk to its acknowledgement."""
        if not isinstance(message, Ack):
            return
        now = time.monotonic()
        while self._unacknowledged and self._unacknowledged[0][0] <= message.received:
            self.ack_seconds.append(now - self._unacknowledged.popleft()[1])


@dataclass(frozen=True, slots=True)
class FleetReport:
    """The counts that a fleet kept, independently of the learner."""

    made: dict[str, int] = field(default_factory=dict)  # steps by session id, in hexadecimal
    ack_seconds: list[float] = field(default_factory=list)  # since `reset_measurements`
    left: int = 0  # sessions that ended with ByeAck
    reconnects: int = 0

    def __add__(self, other: FleetReport) -> FleetReport:
        return FleetReport(
            self.made | other.made,
            self.ack_seconds + other.ack_seconds,
            self.left + other.left,
            self.reconnects + other.reconnects,
        )


class FakeFleet:
    """Many fake actors in one thread; each sends its next chunk as soon as it has credit."""

    def __init__(
        self, endpoint: str, actors: int, recordings: Sequence[Recording], keys: ActorKeys | None = None
    ) -> None:
        self._context = Context()
        self._poller = zmq.Poller()
        self._by_socket: dict[object, FakeActor] = {}
        self._ready: deque[FakeActor] = deque()
        self._queued: set[int] = set()
        self._sweep_at = time.monotonic()
        shifted = [[*recordings[i:], *recordings[:i]] for i in range(len(recordings))]
        self.actors = [
            FakeActor(self._context, endpoint, keys, shifted[i % len(shifted)], self._register)
            for i in range(actors)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._context.raw.destroy(linger=1_000)

    def _register(self, actor: FakeActor) -> None:
        """Poll the actor's new connection instead of the former one, which its session has closed."""
        for raw in [raw for raw, other in self._by_socket.items() if other is actor]:
            self._poller.unregister(raw)
            del self._by_socket[raw]
        self._poller.register(actor.socket.raw, zmq.POLLIN)
        self._by_socket[actor.socket.raw] = actor

    def poll_once(self, timeout_seconds: float = 0.05) -> None:
        """Wait for messages, let the sessions handle them, and send every chunk that has credit."""
        for raw, _ in self._poller.poll(0 if self._ready else math.ceil(timeout_seconds * 1000)):
            self._poll(self._by_socket[raw])
        now = time.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP_SECONDS
            for actor in self.actors:
                self._poll(actor)
        while self._ready:
            actor = self._ready.popleft()
            self._queued.remove(id(actor))
            if actor.ready:
                actor.send_chunk()
                self._queue(actor)

    def _poll(self, actor: FakeActor) -> None:
        actor.session.poll()
        self._queue(actor)

    def _queue(self, actor: FakeActor) -> None:
        if id(actor) not in self._queued and actor.ready:
            self._queued.add(id(actor))
            self._ready.append(actor)

    def reset_measurements(self) -> None:
        """Discard the acknowledgement times so far; the counts of steps are kept."""
        for actor in self.actors:
            actor.ack_seconds.clear()

    def leave(self) -> FleetReport:
        """End every session with Bye; return the counts."""
        left = sum(actor.session.leave() for actor in self.actors)
        made = Counter[bytes]()
        for actor in self.actors:
            made.update(actor.made)
        return FleetReport(
            {sid.hex(): steps for sid, steps in made.items()},
            [seconds for actor in self.actors for seconds in actor.ack_seconds],
            left,
            sum(actor.session.counters.reconnects for actor in self.actors),
        )


class FleetProcess:
    """A fake fleet in its own process."""

    def __init__(self, endpoint: str, actors: int, game: str, key_file: Path | None = None) -> None:
        argv = [sys.executable, "-m", "tests.support.fake_fleet", endpoint, str(actors), game]
        if key_file is not None:
            argv += ["--keys", str(key_file)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def reset_measurements(self) -> None:
        """See `FakeFleet.reset_measurements`."""
        assert self._process.stdin is not None
        self._process.stdin.write("reset\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """End the process with SIGKILL."""
        self._process.kill()
        self._process.communicate()

    def leave(self) -> None:
        """Request the end of every session; `report` waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def report(self) -> FleetReport:
        """Wait until every session has ended; return the counts."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        with self._process.stdout as stdout:
            text = stdout.read()
        if self._process.wait(_END_SECONDS) != 0:
            raise RuntimeError(f"expected a fake fleet to end with 0, got {self._process.returncode}")
        return FleetReport(**json.loads(text))


def main() -> int:
    """Run one fleet until standard input is closed, and print its report."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.fake_fleet", description=__doc__)
    parser.add_argument("endpoint")
    parser.add_argument("actors", type=int)
    parser.add_argument("game")
    parser.add_argument("--keys", type=Path)
    options = parser.parse_args()
    log_warnings_only()
    keys = read_key_file(options.keys) if options.keys is not None else None
    recordings = record(EnvConfig(id=options.game), RolloutConfig(steps=128, lanes=1, batch_lanes=1), 16)
    stop, reset = threading.Event(), threading.Event()

    def listen() -> None:
        for _ in sys.stdin:
            reset.set()
        stop.set()

    threading.Thread(target=listen, daemon=True).start()
    with FakeFleet(options.endpoint, options.actors, recordings, keys) as fleet:
        while not stop.is_set():
            fleet.poll_once()
            if reset.is_set():
                reset.clear()
                fleet.reset_measurements()
        print(json.dumps(dataclasses.asdict(fleet.leave())))
    return 0


def log_warnings_only() -> None:
    """Log only warnings and errors, to standard error: thousands of sessions would fill the log."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    sys.exit(main())
