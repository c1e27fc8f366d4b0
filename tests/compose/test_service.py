"""`docker compose up`, faults and the end of a run: 4 actors in the short test, 32 in the long one."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable

import pytest

from common.process.lifecycle import EXIT_DONE, EXIT_TEMPORARY
from tests.support.container_engine import Service, memory_bytes
from tests.support.processes import holds_within
from tests.support.result_files import keep

pytestmark = pytest.mark.compose
Make = Callable[..., Service]

_MIB = 2**20
_ACTOR_BYTES = 400 * _MIB


def up(service: Service, actors: int, seconds: float = 300) -> None:
    service.compose("up", "--detach", "--no-build", "--scale", f"actor={actors}", seconds=seconds)


def all_play(service: Service, actors: int) -> None:
    """Wait until every actor has joined, is scraped and has made steps."""
    scraped = (
        f'count(up{{job="actor"}} == 1) == {actors} and count(outrider_actor_env_steps_total > 0) == {actors}'
    )
    service.wait(scraped, f"{actors} actors that play")
    assert service.value("outrider_fleet_actors") == actors


def all_back(service: Service, actors: int, joined: int) -> None:
    """Wait until all actors are back and `joined` sessions have started since the learner did."""
    service.wait(f'outrider_fleet_sessions_total{{event="join"}} >= {joined}', f"{joined} sessions in all")
    service.wait(f"outrider_fleet_actors == {actors}", f"{actors} actors again")
    service.progress(2)


def assert_undisturbed(service: Service) -> None:
    """Check that no container restarted or ran out of memory."""
    for container in service.containers("actor", "learner"):
        assert container.attrs["RestartCount"] == 0, service.logs()
        assert not container.attrs["State"]["OOMKilled"]
    for container in service.containers("actor"):
        assert memory_bytes(container) < _ACTOR_BYTES, (container.name, memory_bytes(container) / _MIB)


def stop_cleanly(service: Service) -> int:
    """Stop the service: the run is interrupted and there is a checkpoint; returns its updates."""
    service.compose("stop", seconds=200)
    exits = service.exits()
    interrupted = {code for name, code in exits.items() if re.search("-(learner|actor)-", name)}
    others = {code for name, code in exits.items() if not re.search("-(learner|actor)-", name)}
    assert (interrupted, others) == ({EXIT_TEMPORARY}, {EXIT_DONE}), exits
    kept = service.compose("run", "--rm", "--no-deps", "-T", "learner", "sh", "-c", "cat runs/*/summary.json")
    summary = json.loads(kept)
    assert (summary["imbalance_steps"], summary["in_flight_steps"]) == (0, 0), summary
    evaluate = ("python", "-m", "learner.evaluate", "runs/smoke-1", "--episodes", "1")
    service.compose("run", "--rm", "--no-deps", "-T", "learner", *evaluate)  # reads the newest checkpoint
    service.compose("down", seconds=200)
    return int(summary["updates"])


@pytest.mark.compose_short
def test_four_actors_train_survive_a_kill_stop_cleanly_and_resume(service: Make) -> None:
    fleet = service(4, TOTAL_STEPS="10000000")
    assert fleet.compose("config", "--quiet") == ""
    up(fleet, 4)
    fleet.wait("outrider_run_updates >= 1", "the first update")
    all_play(fleet, 4)
    fleet.progress(2)
    assert_undisturbed(fleet)
    with urllib.request.urlopen(
        f"http://127.0.0.1:{fleet.variables['GRAFANA_PORT']}/api/health", timeout=10
    ) as page:
        assert page.status == 200
    for container in fleet.containers("actor")[:2]:
        container.kill()
    up(fleet, 4)
    all_back(fleet, 4, 6)
    reached = stop_cleanly(fleet)
    up(fleet, 4)
    fleet.wait(f"outrider_run_updates > {reached}", "progress after the resume")
    assert fleet.value("outrider_learner_accounting_imbalance_steps") == 0


def test_a_finished_run_ends_its_actors_with_0_and_nothing_starts_again(service: Make) -> None:
    fleet = service(2, TOTAL_STEPS="2000")
    up(fleet, 2)
    ended = holds_within(lambda: len([name for name in fleet.exits() if "keys" not in name]) >= 3, 240)
    assert ended, fleet.logs()
    time.sleep(10)  # a restart would happen in this time
    assert set(fleet.exits().values()) == {0}
    assert len(fleet.exits()) == 4
    assert all(container.attrs["RestartCount"] == 0 for container in fleet.containers("actor", "learner"))


def test_32_actors_from_up_to_the_first_update_through_faults_to_a_resume(service: Make) -> None:
    """Measures the figures of docs/benchmarks.md; needs a machine without other load."""
    fleet = service(32, TOTAL_STEPS="10000000")
    figures: dict[str, object] = {
        f"{name}_image_mb": round(fleet.client.images.get(f"outrider-{name}").attrs["Size"] / 1e6)
        for name in ("actor", "learner")
    }
    began = time.monotonic()
    up(fleet, 32, 200)
    fleet.wait("outrider_run_updates >= 1", "the first update", 180 - (time.monotonic() - began))
    figures["up_to_first_update_seconds"] = round(time.monotonic() - began, 1)
    all_play(fleet, 32)
    fleet.progress(2)
    assert_undisturbed(fleet)
    largest = max(memory_bytes(container) for container in fleet.containers("actor"))
    figures["largest_actor_mib"] = round(largest / _MIB)
    figures["learner_mib"] = round(memory_bytes(fleet.containers("learner")[0]) / _MIB)

    for container in fleet.containers("actor")[:16]:
        container.kill()
    began = time.monotonic()
    up(fleet, 32)
    all_back(fleet, 32, 48)
    figures["two_updates_after_kill_of_16_seconds"] = round(time.monotonic() - began, 1)

    [learner] = fleet.containers("learner")
    learner.pause()
    time.sleep(20)
    learner.unpause()
    fleet.progress(2)

    network = fleet.client.networks.get("outrider_fleet")
    cut = fleet.containers("actor")[:8]
    for container in cut:
        network.disconnect(container)
    time.sleep(30)
    for container in cut:
        network.connect(container, aliases=["actor"])
    all_back(fleet, 32, 56)

    began = time.monotonic()
    reached = stop_cleanly(fleet)
    figures["stop_seconds"] = round(time.monotonic() - began, 1)
    up(fleet, 32, 200)
    fleet.wait(f"outrider_run_updates > {reached}", "progress after the resume")
    assert fleet.value("outrider_learner_accounting_imbalance_steps") == 0
    keep("containers", {"actors": 32, **figures, "imbalance_steps": 0})
