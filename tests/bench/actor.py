"""Compares an actor on one core (its loop, session and socket, without a learner) with the emulator alone."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass

import torch

from actor.metrics import PHASES
from actor.rollout import Rollout
from actor.service import Actor, PlayingState
from actor.session import Session
from actor.weights import Blob
from common import envs
from common.config import Config, EnvConfig
from common.model.bonus import BonusModel
from common.model.bundle import Bundle
from common.model.policy import Policy
from common.model.precision import configure_torch, resolve_precision
from common.phase_timer import PhaseTimer
from common.process.parent_link import ParentLink
from common.protocol import codec
from common.protocol.messages import BlobName, ChunkMessage, Welcome
from common.protocol.sockets import Context, DealerSocket, RouterSocket
from learner.server.publisher import WeightsBlob
from learner.training.ppo import PPO
from tests.bench.machine import Emulator, hardware
from tests.support.fake_fleet import log_warnings_only

_GAMES = ("gravitar", "breakout", "montezuma_revenge", "private_eye")
_ROUNDS = 3
_EMULATOR_STEPS = 64
_TIMEOUT_SECONDS = 200
_UNLIMITED = 1 << 40
_LEASE_MS = 1 << 30  # no learner sends messages, so the lease must not expire
_MESSAGE_BYTES = 1 << 26


def measure() -> dict[str, object]:
    """Measure each game in its own process, on one core and one thread."""
    result: dict[str, object] = {**hardware(), "benchmark": "actor", "chunk": "128 x 16", "rounds": _ROUNDS}
    for game in _GAMES:
        run = subprocess.run(
            [sys.executable, "-m", "tests.bench.actor", game],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
            stdout=subprocess.PIPE,
            timeout=_TIMEOUT_SECONDS,
        )
        result[game] = json.loads(run.stdout)
    return result


class _BoundedParent(ParentLink):
    """A parent that ends when the session has sent `chunk_limit` chunks, which ends the actor's loop."""

    session: Session
    chunk_limit = 0

    def gone(self) -> bool:
        return self.session.counters.chunks_sent >= self.chunk_limit


@dataclass
class _Blobs:
    """Implements `WeightsSource` with the blobs of one version in memory."""

    blobs: dict[str, Blob]

    def fetch(self, name: BlobName, held: tuple[int, int], keep_waiting: object) -> Blob | None:
        return self.blobs[name]

    def reconnect(self) -> None:
        pass

    def close(self) -> None:
        pass


def _blobs(config: Config) -> tuple[_Blobs, bytes]:
    """Weights as a learner publishes them before it has trained, and the digest of the target."""
    spaces = envs.spaces(config.env)
    ppo = PPO(config, spaces, torch.device("cpu"))
    moments = {"mean": torch.full(spaces.observation, 60.0), "std": torch.full(spaces.observation, 40.0)}
    published = {
        "bundle": WeightsBlob.of("bundle", Bundle(1, 0, ppo.tensors() | moments)),
        "target": WeightsBlob.of("target", Bundle(0, 0, dict(ppo.target.state_dict()))),
    }
    blobs = {
        name: Blob(x.meta.generation, x.meta.version, b"".join(x.pieces)) for name, x in published.items()
    }
    return _Blobs(blobs), published["target"].meta.digest


def _measure(game: str) -> dict[str, object]:
    """Measure emulator and actor in alternation, so that both have the same disturbances; return medians."""
    log_warnings_only()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    configure_torch(threads=1)
    config = Config(env=EnvConfig(id=game), precision=resolve_precision("auto", torch.device("cpu")))
    weights, digest = _blobs(config)
    bare = Emulator(config, config.rollout.lanes)
    with Context() as context, tempfile.TemporaryDirectory() as directory:
        server = RouterSocket(context, _MESSAGE_BYTES)
        endpoint = server.bind(f"ipc://{directory}/data")
        parent, phases = _BoundedParent(), PhaseTimer(PHASES)
        session = parent.session = Session(lambda: DealerSocket(context, endpoint, _MESSAGE_BYTES), parent)
        _welcome(server, session, config, digest)
        state = _playing_state(session, config, weights, phases)
        actor = Actor(session, weights, parent, threading.Event(), phases, lambda stats: None, state)
        _play(actor, parent)  # resets the lanes, warms up
        _take_chunk(server)
        phases.seconds = dict.fromkeys(phases.seconds, 0.0)
        rates, bytes_sent = [], 0
        for _ in range(_ROUNDS):
            alone = bare.measure_rate(_EMULATOR_STEPS)
            rates.append((alone, config.rollout.chunk_steps / _play(actor, parent)))
            bytes_sent += _take_chunk(server)
        session.close()
        server.close()
    bare.close()
    alone, playing = (statistics.median(x) for x in zip(*rates, strict=True))
    total = sum(config.rollout.chunk_steps / rate for _, rate in rates)
    shares = {name: round(seconds / total, 3) for name, seconds in phases.seconds.items() if seconds}
    return {
        "emulator_steps_per_second": round(alone),
        "steps_per_second": round(playing),
        "ratio": round(statistics.median(mine / bare for bare, mine in rates), 3),
        "ratio_rounds": [round(mine / bare, 3) for bare, mine in rates],
        "phase_shares": shares | {"other": round(1 - sum(shares.values()), 3)},
        "bytes_per_step": round(bytes_sent / (_ROUNDS * config.rollout.chunk_steps), 1),
    }


def _playing_state(session: Session, config: Config, weights: _Blobs, phases: PhaseTimer) -> PlayingState:
    assert session.welcome is not None
    spaces = envs.spaces(config.env)
    rollout = Rollout(envs.make(config.env, config.rollout.lanes), spaces, config.rollout, phases)
    intrinsic = BonusModel(spaces, config, weights.blobs["target"].tensors())
    return PlayingState(session.welcome, config, spaces, rollout, Policy(spaces, config), intrinsic)


def _welcome(server: RouterSocket, session: Session, config: Config, digest: bytes) -> None:
    """Accept the session, with unlimited credit."""
    welcome = Welcome(
        sid=session.sid,
        generation=1,
        slot=0,
        incarnation=0,
        received=0,
        settled=0,
        credit=_UNLIMITED,
        version=0,
        target=digest,
        heartbeat_ms=_LEASE_MS,
        lease_ms=_LEASE_MS,
        software="0",
        body=config.to_json().encode(),
    )
    deadline = time.monotonic() + 10.0
    while not session.joined and time.monotonic() < deadline:
        session.poll(0.05)
        for peer, *_ in server.receive():
            server.send(peer, codec.encode(welcome))
    assert session.joined


def _play(actor: Actor, parent: _BoundedParent) -> float:
    """Collect and send one chunk with the real loop; return the time that it took, in seconds."""
    parent.chunk_limit += 1
    start = time.perf_counter()
    actor.run()
    return time.perf_counter() - start


def _take_chunk(server: RouterSocket) -> int:
    """Wait for the chunk that was sent; return its size in bytes."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        for message in server.receive():
            if isinstance(codec.decode(message.parts), ChunkMessage):
                return sum(map(len, message.parts))
        time.sleep(0.001)
    raise TimeoutError("expected the chunk that the actor sent, got none")


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1])))
