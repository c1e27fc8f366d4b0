"""Fake actors: real sessions on real sockets that replay recorded chunks instead of playing.

They speak the whole protocol, because they are made of `actor.session`; only the emulator and the
networks are missing. Each keeps its own count of the steps it made, by session, to compare with the
learner's books. `FakeFleet` drives many in one thread; `FleetProcess` runs one fleet in a process of
its own (`python -m tests.support.fake_fleet`), which ends when its standard input is closed.
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
from common.protocol.messages import Ack
from common.protocol.sockets import Context, DealerSocket
from common.rng import RngKey

_MESSAGE_BYTES = 1 << 20
_SWEEP_SECONDS = 0.25  # between two looks at every session: heartbeats fall due, silence is noticed
_END_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Recording:
    """One chunk, ready to be sent."""

    steps: int
    packed: codec.Packed


def record(env: EnvConfig, rollout: RolloutConfig, chunks: int, seed: int = 1) -> list[Recording]:
    """Random play, encoded."""
    play = Rollout(envs.make(env, rollout.lanes), envs.spaces(env), rollout, PhaseTimer(PHASES))
    play.reset(RngKey(seed, 0, 0, True))
    recordings = []
    for _ in range(chunks):
        chunk = play.collect(None, lambda: True)
        assert chunk is not None
        recordings.append(Recording(rollout.chunk_steps, codec.pack(chunk)))
    return recordings


class _Tapped(DealerSocket):
    """A connection that shows each acknowledgement to `heard` on its way to the session."""

    def __init__(
        self, context: Context, endpoint: str, keys: ActorKeys | None, heard: Callable[[Ack], None]
    ) -> None:
        super().__init__(context, endpoint, _MESSAGE_BYTES, keys)
        self._heard = heard

    def receive(self, timeout_seconds: float = 0.0, also: int | None = None) -> list[bytes] | None:
        parts = super().receive(timeout_seconds, also)
        message = codec.decode(parts) if parts is not None else None
        if isinstance(message, Ack):
            self._heard(message)
        return parts


class FakeActor:
    """One session that sends the next recording whenever it is told to and has credit."""

    def __init__(self, connect: Callable[[FakeActor], DealerSocket], recordings: Sequence[Recording]) -> None:
        self._recordings = recordings
        self._next = 0
        self._unheard: deque[tuple[int, float]] = deque()  # end of each chunk on its way, and when it left
        self._sid = b""
        self.made: Counter[bytes] = Counter()  # steps, by session
        self.ack_seconds: list[float] = []
        self.session = Session(lambda: connect(self), ParentLink())

    @property
    def ready(self) -> bool:
        """Whether it may play a chunk."""
        session = self.session
        steps = self._recordings[self._next].steps
        return session.joined and not session.finished and session.credit - session.produced >= steps

    def play(self) -> None:
        """Make the steps of the next recording, and send them."""
        recording, session = self._recordings[self._next], self.session
        self._next = (self._next + 1) % len(self._recordings)
        if session.sid != self._sid:  # the learner gave the last one up
            self._sid = session.sid
            self._unheard.clear()
        session.count_steps(recording.steps)
        self.made[session.sid] += recording.steps
        self._unheard.append((session.produced, time.monotonic()))
        session.send_chunk(session.generation, session.version, True, recording.packed)

    def heard(self, ack: Ack) -> None:
        """Note how long each chunk took to be acknowledged."""
        now = time.monotonic()
        while self._unheard and self._unheard[0][0] <= ack.received:
            self.ack_seconds.append(now - self._unheard.popleft()[1])


@dataclass(frozen=True, slots=True)
class Report:
    """What a fleet did, by its own count."""

    made: dict[str, int] = field(default_factory=dict)  # steps by session, in hexadecimal
    ack_seconds: list[float] = field(default_factory=list)  # since `forget`
    left: int = 0  # sessions that the learner let go with ByeAck
    reconnects: int = 0

    def __add__(self, other: Report) -> Report:
        return Report(
            self.made | other.made,
            self.ack_seconds + other.ack_seconds,
            self.left + other.left,
            self.reconnects + other.reconnects,
        )


class FakeFleet:
    """Many fake actors in one thread; each plays as soon as it may."""

    def __init__(
        self, endpoint: str, actors: int, recordings: Sequence[Recording], keys: ActorKeys | None = None
    ) -> None:
        self._context, self._endpoint, self._keys = Context(), endpoint, keys
        self._poller = zmq.Poller()
        self._speakers: dict[object, FakeActor] = {}  # by socket
        self._ready: deque[FakeActor] = deque()
        self._queued: set[int] = set()
        self._sweep_at = time.monotonic()
        shifted = [[*recordings[i:], *recordings[:i]] for i in range(len(recordings))]
        self.actors = [FakeActor(self._connect, shifted[i % len(shifted)]) for i in range(actors)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._context.raw.destroy(linger=1_000)

    def _connect(self, actor: FakeActor) -> DealerSocket:
        for raw in [raw for raw, other in self._speakers.items() if other is actor]:  # closed by the session
            self._poller.unregister(raw)
            del self._speakers[raw]
        client = _Tapped(self._context, self._endpoint, self._keys, actor.heard)
        self._poller.register(client.raw, zmq.POLLIN)
        self._speakers[client.raw] = actor
        return client

    def turn(self, timeout_seconds: float = 0.05) -> None:
        """Wait for the learner to speak, then let every session react, and play what may be played."""
        for raw, _ in self._poller.poll(0 if self._ready else math.ceil(timeout_seconds * 1000)):
            self._poll(self._speakers[raw])
        now = time.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP_SECONDS
            for actor in self.actors:
                self._poll(actor)
        while self._ready:
            actor = self._ready.popleft()
            self._queued.remove(id(actor))
            if actor.ready:
                actor.play()
                self._queue(actor)

    def _poll(self, actor: FakeActor) -> None:
        actor.session.poll()
        self._queue(actor)

    def _queue(self, actor: FakeActor) -> None:
        if id(actor) not in self._queued and actor.ready:
            self._queued.add(id(actor))
            self._ready.append(actor)

    def forget(self) -> None:
        """Begin measuring anew; the counts of steps go on."""
        for actor in self.actors:
            actor.ack_seconds.clear()

    def leave(self) -> Report:
        """Say Bye for everybody; returns what they did."""
        left = sum(actor.session.leave() for actor in self.actors)
        made = Counter[bytes]()
        for actor in self.actors:
            made.update(actor.made)
        return Report(
            {sid.hex(): steps for sid, steps in made.items()},
            [seconds for actor in self.actors for seconds in actor.ack_seconds],
            left,
            sum(actor.session.counters.reconnects for actor in self.actors),
        )


class FleetProcess:
    """A fake fleet in a process of its own."""

    def __init__(self, endpoint: str, actors: int, game: str, key_file: Path | None = None) -> None:
        argv = [sys.executable, "-m", "tests.support.fake_fleet", endpoint, str(actors), game]
        if key_file is not None:
            argv += ["--keys", str(key_file)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def forget(self) -> None:
        """See `FakeFleet.forget`."""
        assert self._process.stdin is not None
        self._process.stdin.write("forget\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.communicate()

    def leave(self) -> None:
        """Begin to leave."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def report(self) -> Report:
        """Wait until everybody has left; returns what they did."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        with self._process.stdout as stdout:
            text = stdout.read()
        if self._process.wait(_END_SECONDS) != 0:
            raise RuntimeError(f"expected a fake fleet to end with 0, got {self._process.returncode}")
        return Report(**json.loads(text))


def main() -> int:
    """Run one fleet until standard input is closed; prints its report."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.fake_fleet", description=__doc__)
    parser.add_argument("endpoint")
    parser.add_argument("actors", type=int)
    parser.add_argument("game")
    parser.add_argument("--keys", type=Path)
    options = parser.parse_args()
    quiet()
    keys = read_key_file(options.keys) if options.keys is not None else None
    recordings = record(EnvConfig(id=options.game), RolloutConfig(steps=128, lanes=1, batch_lanes=1), 16)
    stop, forget = threading.Event(), threading.Event()

    def listen() -> None:
        for _ in sys.stdin:
            forget.set()
        stop.set()

    threading.Thread(target=listen, daemon=True).start()
    with FakeFleet(options.endpoint, options.actors, recordings, keys) as fleet:
        while not stop.is_set():
            fleet.turn()
            if forget.is_set():
                forget.clear()
                fleet.forget()
        print(json.dumps(dataclasses.asdict(fleet.leave())))
    return 0


def quiet() -> None:
    """Thousands of sessions: warnings only, to standard error."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    sys.exit(main())
