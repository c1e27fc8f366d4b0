"""Measures the time in which a fleet that shares one key rejoins a restarted learner."""

from __future__ import annotations

import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from common import envs
from common.config import Config, EnvConfig, RolloutConfig
from common.keys import files
from common.keys.files import KeyDirectory
from common.protocol.sockets import weights_endpoint
from learner.server.server import Server
from tests.bench.fleet import JOIN_SECONDS, start
from tests.bench.machine import hardware
from tests.support.fake_fleet import FleetReport, log_warnings_only
from tests.support.processes import free_port, wait_until

_GAME = "gravitar"
_DOWN_SECONDS = 5.0
_STEADY_SECONDS = 30.0  # time after the rejoin in which no session may be lost


def measure(actors: int = 2_000) -> dict[str, object]:
    """Measure encrypted sessions of the product; the learner has no trainer and gives no credit."""
    log_warnings_only()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    config = Config(env=EnvConfig(id=_GAME), rollout=RolloutConfig(steps=128, lanes=1, batch_lanes=32))
    config = replace(config, rnd=replace(config.rnd, warmup_steps=0))
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as directory:
        path, key_file = Path(directory) / "keys", Path(directory) / "fleet.json"
        files.initialise(path)
        files.add(path, "fleet")
        files.export(path, "fleet", key_file)
        server = _serve(config, 0, None, endpoint, path)
        began = time.monotonic()
        fleets = start(endpoint, actors, key_file)
        try:
            _wait(server, actors)
            joined = time.monotonic() - began
            saved = server.accounting()
            server.close()
            time.sleep(_DOWN_SECONDS)
            server = _serve(config, 1, saved, endpoint, path)
            began = time.monotonic()
            _wait(server, actors)
            rejoined = time.monotonic() - began
            time.sleep(_STEADY_SECONDS)
            connected, status = server.session_count(), server.refresh_status()
            server.drain(finished=True)
        finally:
            for fleet in fleets:
                fleet.leave()
        report = sum((fleet.report() for fleet in fleets), FleetReport())
        server.close()
    return {
        **hardware(),
        "benchmark": "rejoin",
        "actors": actors,
        "keys": 1,
        "joined_seconds": round(joined, 1),
        "down_seconds": _DOWN_SECONDS,
        "rejoined_seconds": round(rejoined, 1),
        "connected_after_30_seconds": connected,
        "sessions_lost": status.events["lost"],
        "bans": status.bans,
        "left_cleanly": report.left,
    }


def _serve(config: Config, generation: int, saved: str | None, endpoint: str, path: Path) -> Server:
    server = Server(config, envs.spaces(config.env), generation, None, KeyDirectory.open(path))
    if saved is not None:
        server.restore(saved)
    server.start([(endpoint, weights_endpoint(endpoint))])
    return server


def _wait(server: Server, sessions: int) -> None:
    wait_until(lambda: server.session_count() >= sessions, f"{sessions} sessions", JOIN_SECONDS)
