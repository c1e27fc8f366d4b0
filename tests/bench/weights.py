"""Measures the time until every puller has a published bundle, and the data port's round trip meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import torch

from common import envs
from common.config import Config, EnvConfig, RolloutConfig
from common.model.bundle import Bundle
from learner.server.publisher import WeightsBlob
from learner.training.ppo import PPO
from tests.bench.intake import Intake
from tests.bench.machine import cpu_seconds, hardware
from tests.support.fake_fleet import FleetProcess, log_warnings_only
from tests.support.processes import free_port

_PROCESSES = 4
_BUNDLES = 5
_ACTORS_PER_HOST = 16
_PULL_SECONDS = 60.0
_JOIN_SECONDS = 120.0
_CHUNKS_PER_SECOND = 50.0


def measure(pullers: int = 64) -> dict[str, object]:
    """Measure one puller per actor, then one per host of sixteen actors; one fake actor sends data."""
    log_warnings_only()
    hosts = max(1, pullers // _ACTORS_PER_HOST)
    return {
        **hardware(),
        "benchmark": "weights",
        "bundles": _BUNDLES,
        "actors": pullers,
        "puller_per_actor": _measure(pullers, 0),
        "puller_per_host": _measure(hosts, _ACTORS_PER_HOST),
    }


def _measure(pullers: int, readers: int) -> dict[str, float]:
    rollout = RolloutConfig(steps=128, lanes=1, batch_lanes=1)
    config = Config(total_steps=1 << 50, env=EnvConfig(id="breakout"), rollout=rollout)
    config = replace(config, rnd=replace(config.rnd, warmup_steps=0))
    ppo = PPO(config, envs.spaces(config.env), torch.device("cpu"))
    moments = {"mean": torch.zeros(84, 84), "std": torch.ones(84, 84)}
    bundles = [Bundle(1, version, ppo.tensors() | moments) for version in range(_BUNDLES + 1)]
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with Intake(config, endpoint, _CHUNKS_PER_SECOND) as intake:
        sender = FleetProcess(endpoint, 1, config.env.id)
        processes = _start(endpoint, pullers, readers)
        try:
            intake.wait_for(1, _JOIN_SECONDS)
            intake.open()
            _publish(intake, bundles[0], processes)  # establishes the connections
            sender.reset_measurements()
            before = cpu_seconds()
            seconds = [x for bundle in bundles[1:] for x in _publish(intake, bundle, processes)]
            cpu = cpu_seconds() - before
        finally:
            sender.leave()
            for process in processes:
                process.communicate(timeout=_PULL_SECONDS)
        round_trips = sender.report().ack_seconds
        status = intake.server.refresh_status()
    return {
        "pullers": pullers,
        "bundle_mb": round(WeightsBlob.of("bundle", bundles[0]).meta.size / 1e6, 2),
        "pull_p50_seconds": round(float(np.quantile(seconds, 0.5)), 3),
        "pull_p99_seconds": round(float(np.quantile(seconds, 0.99)), 3),
        "last_seconds": round(max(seconds), 3),
        "round_trip_p50_ms": round(float(np.quantile(round_trips, 0.5)) * 1e3, 2),
        "round_trip_p99_ms": round(float(np.quantile(round_trips, 0.99)) * 1e3, 2),
        "round_trips": len(round_trips),
        "sent_mb_per_bundle": round(status.weights_bytes / (_BUNDLES + 1) / 1e6, 1),
        "learner_cpu_ms_per_bundle": round(cpu / _BUNDLES * 1e3, 1),
        "send_queue_full": status.send_queue_full,
    }


def _start(endpoint: str, pullers: int, readers: int) -> list[subprocess.Popen[str]]:
    count = min(pullers, _PROCESSES)
    shares = [pullers // count + (number < pullers % count) for number in range(count)]
    argv = [sys.executable, "-m", "tests.bench.pullers", endpoint]
    return [
        subprocess.Popen(
            [*argv, str(share), str(readers)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for share in shares
    ]


def _publish(intake: Intake, bundle: Bundle, processes: list[subprocess.Popen[str]]) -> list[float]:
    """Publish a bundle; return the time until each puller has it, in seconds."""
    intake.server.publish(bundle)
    start = time.monotonic()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("pull\n")
        process.stdin.flush()
    moments: list[float] = []
    for process in processes:
        assert process.stdout is not None
        moments += json.loads(process.stdout.readline())
    return [moment - start for moment in moments]
