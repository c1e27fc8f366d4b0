"""How long a fleet that shares one key needs to rejoin a learner that restarts."""

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
from common.protocol import codec
from common.protocol.sockets import weights_endpoint
from learner.server.admission import Admission
from learner.server.network import Network
from learner.server.publisher import Publisher
from tests.bench.fleet import JOIN_SECONDS, start
from tests.bench.machine import hardware
from tests.support.fake_fleet import FleetReport, log_warnings_only
from tests.support.processes import free_port, wait_until

_GAME = "gravitar"
_DOWN_SECONDS = 5.0
_STEADY_SECONDS = 30.0  # afterwards, in which no session may be lost


def measure(actors: int = 2_000) -> dict[str, object]:
    """Measure CURVE sessions of the product; the learner has no trainer and gives no credit."""
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
        admission, network = _serve(config, 0, None, endpoint, path)
        began = time.monotonic()
        fleets = start(endpoint, actors, key_file)
        try:
            _wait(network, admission, actors)
            joined = time.monotonic() - began
            saved = network.ask(lambda: admission.registry.to_json(set()))
            network.close()
            time.sleep(_DOWN_SECONDS)
            admission, network = _serve(config, 1, saved, endpoint, path)
            began = time.monotonic()
            _wait(network, admission, actors)
            rejoined = time.monotonic() - began
            time.sleep(_STEADY_SECONDS)
            connected, status = _connected(network, admission), network.ask(network.look)
            network.ask(lambda: network.enqueue(admission.registry.drain(True)))
        finally:
            for fleet in fleets:
                fleet.leave()
        report = sum((fleet.report() for fleet in fleets), FleetReport())
        network.close()
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


def _serve(
    config: Config, generation: int, saved: str | None, endpoint: str, path: Path
) -> tuple[Admission, Network]:
    admission = Admission(config, generation, bytes(32))
    if saved is not None:
        admission.registry.restore(saved, time.monotonic())
    limit = codec.message_limit_bytes(config.rollout, envs.spaces(config.env))
    network = Network(admission, Publisher(None), limit, KeyDirectory.open(path))
    network.start([(endpoint, weights_endpoint(endpoint))], lambda arrival: None)
    return admission, network


def _connected(network: Network, admission: Admission) -> int:
    return network.ask(lambda: len(admission.registry.sessions.connected()))


def _wait(network: Network, admission: Admission, sessions: int) -> None:
    wait_until(lambda: _connected(network, admission) >= sessions, f"{sessions} sessions", JOIN_SECONDS)
