"""Several faults in one run: a short test of the scenarios and of the soak, for the default tier.

Leases are short here, so that a lease ends within seconds of a partition.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.fault_harness import CHUNK_STEPS, LANES, FaultHarness, frozen, stop
from tests.support.processes import Command, free_port, kill, wait_until
from tests.support.proxy import PARTITION, FaultProxy
from tests.support.result_files import keep

pytestmark = pytest.mark.integration

SEED = 1
LEASE_SECONDS = 5.0  # more than two heartbeats
LOST = 'outrider_fleet_sessions_total{event="lost"}'


def wait_each(harness: FaultHarness, processes: list[psutil.Process]) -> None:
    """Wait until each process has made more steps than its credit at the time of the call allows."""
    made = harness.run.counted_by_process()

    def all_stepped() -> bool:
        now = harness.run.counted_by_process()
        return all(now.get(one.pid, 0) > made.get(one.pid, 0) + 2 * CHUNK_STEPS for one in processes)

    wait_until(all_stepped, "more steps of every process")


def lost_sessions(harness: FaultHarness, learner: Command) -> float:
    """The number of leases that have ended, as soon as the exporter responds."""
    samples: list[float] = []

    def answers() -> bool:
        sample = harness.run.sample(LOST, learner)
        samples.extend([] if sample is None else [sample])
        return bool(samples)

    wait_until(answers, "a response of the exporter")
    return samples[0]


def wait_saved(harness: FaultHarness) -> None:
    """Wait for a checkpoint that includes every update so far."""
    checkpoints, version = harness.run.path / "checkpoints", harness.updates()[-1]["version"]
    wait_until(
        lambda: any(int(path.stem) > version + 1 for path in checkpoints.glob("*.safetensors")),
        "a checkpoint",
    )


def kill_within_chunk(harness: FaultHarness, actor: psutil.Process) -> None:
    """Kill an actor that has made part of a chunk, so that steps are lost."""

    def killed() -> bool:
        with frozen(actor):
            wait_until(lambda: actor.status() == psutil.STATUS_STOPPED, "a stopped actor")
            # The last step of each lane may be counted here and not yet by the actor.
            if harness.run.counted_by_process()[actor.pid] % CHUNK_STEPS <= LANES:
                return False
            kill(actor.pid)
            return True

    wait_until(killed, "part of a chunk")


def test_every_step_is_accounted_for_over_partition_freeze_learner_kill_and_actor_kill(
    tmp_path: Path,
) -> None:
    """Three remote actors, one of them behind a proxy; the resumed learner also starts a local actor."""
    harness, rng, port = FaultHarness(tmp_path, SEED), random.Random(SEED), free_port()
    harness.run.constants |= {
        "learner.server.sessions.LEASE_SECONDS": LEASE_SECONDS,
        "learner.training.checkpoint_writer._MIN_SECONDS": 0.5,  # between two checkpoints
    }
    with (
        FaultProxy(port, harness.run.port, SEED) as proxy,
        harness.actor(port) as proxied,
        harness.actor(procs=2) as others,
    ):

        def partition() -> None:
            before = lost_sessions(harness, learner)
            with proxy.during(PARTITION):
                wait_until(lambda: harness.run.metric(LOST, learner) > before, "a lease that ends")
            harness.wait_steps(proxied)

        def freeze() -> None:
            process = rng.choice(pair)
            with frozen(process):
                time.sleep(rng.uniform(0.5, 1.5) * LEASE_SECONDS)
                harness.wait_updates(5)
            wait_each(harness, [process])

        faults: list[Callable[[], None]] = [partition, freeze]
        rng.shuffle(faults)
        with harness.learner() as learner:
            harness.wait_steps(proxied)
            wait_until(lambda: len(others.actors()) == 2, "both actors")
            pair = others.actors()
            wait_each(harness, pair)
            for fault in faults:
                fault()
                harness.wait_updates(5)
            wait_saved(harness)
            time.sleep(rng.uniform(0.0, 1.0))
            kill(learner.pid)
            learner.process.wait()
        with harness.learner("--resume", "--local-actors", "1") as learner:
            harness.wait_steps(proxied)
            wait_each(harness, pair)
            harness.wait_steps(learner)
            (local_actor,) = learner.actors()
            kill_within_chunk(harness, local_actor)
            harness.wait_steps(learner)
            for command in (proxied, others, learner):
                stop(command)
    figures = harness.figures(unreported_steps=LANES)  # the killed local actor had not counted them yet
    generations = {row["generation"] for row in harness.timeline()}
    assert generations == {0, 1}
    assert figures["dropped_steps"].get("actor_lost", 0) > 0, figures
    keep("mixed-faults", {"seed": SEED, **figures})
