"""Measures the learner's data path with a fake fleet: chunks per second and the cost of a chunk."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil

from common.config import Config, EnvConfig, RolloutConfig
from tests.bench.intake import Intake
from tests.bench.machine import cpu_seconds, hardware
from tests.support.fake_fleet import FleetProcess, FleetReport, log_warnings_only
from tests.support.processes import free_port

_GAME = "gravitar"
_SESSIONS_PER_PROCESS = 512  # below libzmq's 1,023 sockets per context
_PROCESSES = 2
JOIN_SECONDS = 120.0
_SETTLING_SECONDS = 10.0  # time between the first credit and the measurement
_BATCH_LANES = 256


def measure(actors: int = 256, rate: float | None = None, seconds: float = 30.0) -> dict[str, object]:
    """Measure chunks of 128 x 1 through admission, decoding and settling, without training."""
    log_warnings_only()
    rollout = RolloutConfig(steps=128, lanes=1, batch_lanes=_BATCH_LANES)
    config = Config(total_steps=1 << 50, max_lag=1, env=EnvConfig(id=_GAME), rollout=rollout)
    config = replace(config, rnd=replace(config.rnd, warmup_steps=0))
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with Intake(config, endpoint, rate) as intake:
        empty_bytes = _resident_bytes()
        fleets = start(endpoint, actors)
        try:
            intake.wait_for(actors, JOIN_SECONDS)
            joined_bytes = _resident_bytes()
            idle = _idle(actors)
            figures = _observe(intake, fleets, seconds, rollout.chunk_steps)
        finally:
            for fleet in fleets:
                fleet.leave()
        report = sum((fleet.report() for fleet in fleets), FleetReport())
        totals = intake.close_ledger()
        served = sum(steps > 0 for steps in report.made.values())
        memory = (joined_bytes - empty_bytes) / actors
    return {
        **hardware(),
        "benchmark": "fleet",
        "actors": actors,
        "rate_asked": rate,
        "chunk": "128 x 1",
        "game": _GAME,
        "play": "random",
        "batch_lanes": _BATCH_LANES,
        "max_lag": config.max_lag,
        "seconds": seconds,
        **figures,
        **idle,
        **_acknowledgement(report),
        "session_kib": round(memory / 1024, 1),
        "actors_served": served,
        "imbalance_steps": totals.imbalance,
        "miscounted_steps": sum(report.made.values()) - totals.produced,
        "invalid_chunks": totals.dropped.get("invalid", 0) // rollout.chunk_steps,
        "reconnects": report.reconnects,
        "left_cleanly": report.left,
    }


def start(endpoint: str, actors: int, key_file: Path | None = None) -> list[FleetProcess]:
    """Start a fleet in several processes; all actors share one key if the learner requires keys."""
    count = min(actors, max(_PROCESSES, -(-actors // _SESSIONS_PER_PROCESS)))
    shares = [actors // count + (number < actors % count) for number in range(count)]
    return [FleetProcess(endpoint, share, _GAME, key_file) for share in shares]


def _idle(actors: int) -> dict[str, float]:
    """The cost of sessions that only send heartbeats."""
    cpu, start, wait_seconds = cpu_seconds(), time.monotonic(), 4.0
    time.sleep(wait_seconds)
    share = (cpu_seconds() - cpu) / (time.monotonic() - start)
    return {
        "idle_cpu_cores": round(share, 4),
        "idle_cpu_us_per_session_second": round(share / actors * 1e6, 1),
    }


def _observe(
    intake: Intake, fleets: list[FleetProcess], seconds: float, chunk_steps: int
) -> dict[str, object]:
    """Measure rates and the growth of memory for `seconds`."""
    intake.open()
    time.sleep(_SETTLING_SECONDS)
    for fleet in fleets:
        fleet.reset_measurements()
    before, chunks = intake.server.refresh_status(), intake.chunks
    cpu, threads, start = cpu_seconds(), _thread_seconds(), time.monotonic()
    times, memory = [], []
    while time.monotonic() - start < seconds:
        time.sleep(0.25)
        times.append(time.monotonic() - start)
        memory.append(_resident_bytes())
    after, done = intake.server.refresh_status(), max(1, intake.chunks - chunks)
    wall, spent = time.monotonic() - start, cpu_seconds() - cpu
    by_thread = {name: seconds - threads.get(name, 0.0) for name, seconds in _thread_seconds().items()}
    received_bytes, received_steps = (
        after.chunk_bytes - before.chunk_bytes,
        after.chunk_steps - before.chunk_steps,
    )
    # The slope is that of the running maximum: the memory of batches varies, and a leak only grows.
    later = len(times) // 3
    slope = np.polyfit(times[later:], np.maximum.accumulate(memory)[later:], 1)[0]
    return {
        "chunks_per_second": round(done / wall, 1),
        "steps_per_second": round(done * chunk_steps / wall),
        "mb_per_second": round(received_bytes / wall / 1e6, 2),
        "bytes_per_step": round(received_bytes / max(1, received_steps), 1),
        "cpu_ms_per_chunk": round(spent / done * 1e3, 3),
        "cpu_ms_per_chunk_by_thread": {name: round(x / done * 1e3, 3) for name, x in by_thread.items()},
        "cpu_cores": round(spent / wall, 3),
        "memory_mb": round(memory[-1] / 1e6, 1),
        "memory_slope_mb_per_minute": round(float(slope) * 60 / 1e6, 3),
    }


def _acknowledgement(report: FleetReport) -> dict[str, float]:
    seconds = np.array(report.ack_seconds or [float("nan")])
    p50, p99, most = (float(x) for x in (*np.quantile(seconds, [0.5, 0.99]), seconds.max()))
    return {
        "ack_p50_ms": round(p50 * 1e3, 2),
        "ack_p99_ms": round(p99 * 1e3, 2),
        "ack_max_ms": round(most * 1e3, 2),
    }


def _thread_seconds() -> dict[str, float]:
    """The processor time of each thread by name; `sockets` is that of libzmq's threads."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    seconds: dict[str, float] = {}
    for thread in psutil.Process().threads():
        name = names.get(thread.id, "sockets")
        seconds[name] = seconds.get(name, 0.0) + thread.user_time + thread.system_time
    return seconds


def _resident_bytes() -> int:
    return int(psutil.Process(os.getpid()).memory_info().rss)
