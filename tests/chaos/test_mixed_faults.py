"""Several faults in one run: the default tier's form of the scenarios and of the soak.

Leases are short here, so that a partition outlives one within seconds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.fault_harness import CHUNK_STEPS, LANES, Field, frozen, stop
from tests.support.processes import Command, free_port, kill, wait_until
from tests.support.proxy import PARTITION, FaultProxy
from tests.support.result_files import keep

pytestmark = pytest.mark.integration

SEED = 1
LEASE_SECONDS = 5.0  # more than two heartbeats
LOST = 'outrider_fleet_sessions_total{event="lost"}'


def plays(field: Field, actor: Command) -> None:
    """Wait until the actors of a command have made more steps than their credit allowed."""
    made = field.made_by(actor)
    wait_until(lambda: field.made_by(actor) > made + 2 * CHUNK_STEPS, "an actor that plays")


def each_plays(field: Field, processes: list[psutil.Process]) -> None:
    """Wait until each process has made more steps than its credit allowed."""
    made = field.run.counted_by_process()

    def all_played() -> bool:
        now = field.run.counted_by_process()
        return all(now.get(one.pid, 0) > made.get(one.pid, 0) + 2 * CHUNK_STEPS for one in processes)

    wait_until(all_played, "every process to play")


def lost_sessions(field: Field, learner: Command) -> float:
    """Read how many leases have ended, as soon as the exporter answers."""
    samples: list[float] = []

    def answers() -> bool:
        sample = field.run.sample(LOST, learner)
        samples.extend([] if sample is None else [sample])
        return bool(samples)

    wait_until(answers, "an answer of the exporter")
    return samples[0]


def saved(field: Field) -> None:
    """Wait for a checkpoint that includes every update so far."""
    checkpoints, version = field.run.path / "checkpoints", field.updates()[-1]["version"]
    wait_until(
        lambda: any(int(path.stem) > version + 1 for path in checkpoints.glob("*.safetensors")),
        "a checkpoint",
    )


def test_every_step_is_accounted_for_over_partition_freeze_learner_kill_and_actor_kill(
    tmp_path: Path,
) -> None:
    """Three remote actors, one of them behind a proxy; the resumed learner has a local one as well."""
    field, chance, port = Field(tmp_path, SEED), random.Random(SEED), free_port()
    field.run.constants |= {
        "learner.server.leases.LEASE_SECONDS": LEASE_SECONDS,
        "learner.server.network.LEASE_SECONDS": LEASE_SECONDS,
        "learner.training.checkpoint_writer._MIN_SECONDS": 0.5,  # between two checkpoints
    }
    with (
        FaultProxy(port, field.run.port, SEED) as proxy,
        field.actor(port) as proxied,
        field.actor(procs=2) as others,
    ):

        def partition() -> None:
            before = lost_sessions(field, learner)
            with proxy.during(PARTITION):
                wait_until(lambda: field.run.metric(LOST, learner) > before, "a lease that ends")
            plays(field, proxied)

        def freeze() -> None:
            process = chance.choice(pair)
            with frozen(process):
                time.sleep(chance.uniform(0.5, 1.5) * LEASE_SECONDS)
                field.wait_updates(5)
            each_plays(field, [process])

        faults: list[Callable[[], None]] = [partition, freeze]
        chance.shuffle(faults)
        with field.learner() as learner:
            plays(field, proxied)
            wait_until(lambda: len(others.actors()) == 2, "both actors")
            pair = others.actors()
            each_plays(field, pair)
            for fault in faults:
                fault()
                field.wait_updates(5)
            saved(field)
            time.sleep(chance.uniform(0.0, 1.0))
            kill(learner.pid)
            learner.process.wait()
        with field.learner("--resume", "--local-actors", "1") as learner:
            plays(field, proxied)
            each_plays(field, pair)
            plays(field, learner)
            (victim,) = learner.actors()
            kill(victim.pid)
            plays(field, learner)
            for command in (proxied, others, learner):
                stop(command)
    figures = field.figures(unreported_steps=LANES)  # of the killed local actor: not counted yet
    epochs = {row["generation"] for row in field.timeline()}
    assert epochs == {0, 1}
    assert figures["dropped_steps"].get("actor_lost", 0) > 0, figures
    keep("mixed-faults", {"seed": SEED, **figures})
