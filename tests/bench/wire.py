"""Measures the codec on recorded chunks of 128 x 1 on one core: bytes per step, encode and decode time."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from zlib_ng import zlib_ng

from actor.metrics import PHASES
from actor.rollout import Rollout
from common import envs
from common.config import Config, EnvConfig, RolloutConfig
from common.model.policy import Policy
from common.model.precision import configure_torch
from common.phase_timer import PhaseTimer
from common.protocol import codec
from common.protocol.chunk import Chunk
from common.protocol.messages import ChunkMessage
from common.rng import RngKey
from common.spaces import Spaces
from learner.evaluation.agent import load_agent
from tests.bench.machine import hardware

_GAMES = (
    "breakout",
    "freeway",
    "gravitar",
    "montezuma_revenge",
    "pitfall",
    "pong",
    "private_eye",
    "solaris",
    "space_invaders",
    "venture",
)
_CHUNKS = 24
_ROUNDS = 3
_ROLLOUT = RolloutConfig(steps=128, lanes=1, batch_lanes=1)


def measure(trained: Iterable[Path] = ()) -> dict[str, object]:
    """Measure ten games with random actions, and the games of the run directories with their policies."""
    configure_torch(threads=1)
    random = {game: _measure(Config(env=EnvConfig(id=game), rollout=_ROLLOUT), None) for game in _GAMES}
    learned = {}
    for run in trained:
        agent = load_agent(run)
        config = dataclasses.replace(agent.config, rollout=_ROLLOUT)
        learned[agent.config.env.id] = _measure(config, agent.policy) | {"env_steps": agent.env_steps}
    return {
        **hardware(),
        "benchmark": "wire",
        "chunk": "128 x 1",
        "chunks": _CHUNKS,
        "bytes_per_step": _mean(random, "bytes_per_step"),
        "zlib_alone_bytes_per_step": _mean(random, "zlib_alone_bytes_per_step"),
        "ratio_to_zlib_alone": round(
            _mean(random, "bytes_per_step") / _mean(random, "zlib_alone_bytes_per_step"), 3
        ),
        "encode_ms_per_chunk": _mean(random, "encode_ms_per_chunk"),
        "decode_ms_per_chunk": _mean(random, "decode_ms_per_chunk"),
        "inflate_ms_per_chunk": _mean(random, "inflate_ms_per_chunk"),
        "decode_chunks_per_second": round(1e3 / _mean(random, "decode_ms_per_chunk")),
        "random": random,
        "trained": learned or "not measured",
    }


def _mean(games: dict[str, dict[str, float]], name: str) -> float:
    return round(statistics.mean(figures[name] for figures in games.values()), 3)


def _record(config: Config, policy: Policy | None) -> list[Chunk]:
    spaces = envs.spaces(config.env)
    rollout = Rollout(envs.make(config.env, _ROLLOUT.lanes), spaces, _ROLLOUT, PhaseTimer(PHASES))
    rollout.reset(RngKey(1, 0, 0, policy is None))
    chunks = []
    for _ in range(_CHUNKS):
        chunk = rollout.collect(policy, lambda: True)
        assert chunk is not None
        arrays = {x.name: np.copy(getattr(chunk, x.name)) for x in dataclasses.fields(chunk)}
        # Real bonuses hardly compress; the zeros of `collect` would.
        arrays["bonus"] = np.random.default_rng(0).random(arrays["bonus"].shape, np.float32)
        chunks.append(Chunk(**arrays))
    return chunks


def _measure(config: Config, policy: Policy | None) -> dict[str, float]:
    spaces = envs.spaces(config.env)
    chunks = _record(config, policy)
    messages = [_encode(chunk) for chunk in chunks]
    for chunk, parts in zip(chunks, messages, strict=True):
        decoded = _decode(parts, spaces)
        for field in dataclasses.fields(chunk):
            assert (getattr(decoded, field.name) == getattr(chunk, field.name)).all()
    bodies = [zlib_ng.compress(np.ascontiguousarray(chunk.observation).data, 2) for chunk in chunks]
    image_bytes = [_message(parts).observation_bytes for parts in messages]
    images = [parts[1][:size] for parts, size in zip(messages, image_bytes, strict=True)]
    rounds = [
        (
            _milliseconds(lambda: [_encode(chunk) for chunk in chunks]),
            _milliseconds(lambda: [_decode(parts, spaces) for parts in messages]),
            _milliseconds(lambda: [zlib_ng.decompress(block) for block in images]),
        )
        for _ in range(_ROUNDS)
    ]
    encode, decode, inflate = (round(statistics.median(x), 4) for x in zip(*rounds, strict=True))
    steps = _CHUNKS * _ROLLOUT.chunk_steps
    return {
        "bytes_per_step": round(sum(sum(map(len, parts)) for parts in messages) / steps, 1),
        "zlib_alone_bytes_per_step": round(sum(map(len, bodies)) / steps, 1),
        "encode_ms_per_chunk": encode,
        "decode_ms_per_chunk": decode,
        "inflate_ms_per_chunk": inflate,
    }


def _encode(chunk: Chunk) -> list[bytes]:
    steps = _ROLLOUT.chunk_steps
    return codec.encode(
        codec.pack(chunk).message(
            sid=bytes(16), generation=0, version=0, offset=0, steps=steps, produced=steps, fresh=True
        )
    )


def _message(parts: list[bytes]) -> ChunkMessage:
    message = codec.decode(parts)
    assert isinstance(message, ChunkMessage)
    return message


def _decode(parts: list[bytes], spaces: Spaces) -> Chunk:
    return codec.unpack(_message(parts), _ROLLOUT, spaces)


def _milliseconds(work: Callable[[], object]) -> float:
    """The processor time per chunk, which other processes hardly affect."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / _CHUNKS * 1e3
