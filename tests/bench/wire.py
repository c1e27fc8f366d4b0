"""Bytes per step: every byte of 100 CHUNK messages of random play, divided by their steps."""

from __future__ import annotations

import dataclasses
import time
import zlib

from actor.metrics import Phases
from actor.rollout import Rollout
from common import envs, wire
from common.config import Config, EnvConfig, RolloutConfig
from common.messages import ChunkMessage
from common.streams import Place
from tests.bench.machine import hardware

_GAMES = ("breakout", "gravitar", "montezuma_revenge")
_CHUNKS = 100
_ROLLOUT = RolloutConfig(steps=128, lanes=2, batch_lanes=2)


def measure() -> dict[str, object]:
    """Size and speed of the codec, per game."""
    result: dict[str, object] = {**hardware(), "benchmark": "wire", "chunks": _CHUNKS, "chunk": "128 x 2"}
    for game in _GAMES:
        result[game] = _measure(game)
    return result


def _measure(game: str) -> dict[str, float]:
    config = Config(env=EnvConfig(id=game), rollout=_ROLLOUT)
    spaces = envs.spaces(config.env)
    rollout = Rollout(envs.make(config.env, _ROLLOUT.lanes), spaces, _ROLLOUT, Phases())
    rollout.reset(Place(1, 0, 0, True))
    size, encode_seconds, decode_seconds = 0, 0.0, 0.0
    for number in range(_CHUNKS):
        chunk = rollout.collect(None, lambda: True)
        assert chunk is not None
        start = time.perf_counter()
        table, body = wire.encode_arrays(chunk)
        steps = _ROLLOUT.chunk_steps
        message = ChunkMessage(bytes(16), 0, 0, number * steps, steps, steps, table, zlib.crc32(body), body)
        parts = wire.encode(message)
        encode_seconds += time.perf_counter() - start
        size += sum(map(len, parts))
        start = time.perf_counter()
        received = wire.decode(parts)
        assert isinstance(received, ChunkMessage)
        decoded = wire.decode_chunk(received, _ROLLOUT, spaces)
        decode_seconds += time.perf_counter() - start
        for field in dataclasses.fields(chunk):
            assert (getattr(decoded, field.name) == getattr(chunk, field.name)).all()
    total = _CHUNKS * _ROLLOUT.chunk_steps
    return {
        "bytes_per_step": round(size / total, 1),
        "encode_us_per_step": round(encode_seconds / total * 1e6, 2),
        "decode_us_per_step": round(decode_seconds / total * 1e6, 2),
    }
