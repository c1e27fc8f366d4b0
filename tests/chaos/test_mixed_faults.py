"""Several faults in one run: the default tier's form of the scenarios and of the soak.

Leases are short here, so that a partition outlives one within seconds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.artefacts import keep
from tests.chaos.field import CHUNK_STEPS, LANES, Field, frozen, stop, until
from tests.chaos.proxy import PARTITION, FaultProxy
from tests.integration.processes import Command, free_port, kill

pytestmark = pytest.mark.integration

SEED = 1
LEASE_SECONDS = 5.0  # more than two heartbeats
PATIENCE_SECONDS = 120.0


def plays(field: Field, actor: Command) -> None:
    """Wait until the actor has made more steps than it had leave for."""
    made = field.made_by(actor)
    until(lambda: field.made_by(actor) > made + 2 * CHUNK_STEPS, PATIENCE_SECONDS, "an actor that plays")


def saved(field: Field) -> None:
    """Wait for a checkpoint that knows of everything so far."""
    checkpoints, version = field.run.path / "checkpoints", field.updates()[-1]["version"]
    until(
        lambda: any(int(path.stem) > version + 1 for path in checkpoints.glob("*.safetensors")),
        PATIENCE_SECONDS,
        "a checkpoint",
    )


def test_every_step_is_accounted_for_over_partition_freeze_learner_kill_and_actor_kill(
    tmp_path: Path,
) -> None:
    """Three remote actors, one of them behind a proxy; the resumed learner has a local one as well."""
    field, chance, port = Field(tmp_path, SEED), random.Random(SEED), free_port()
    field.run.constants |= {
        "learner.leases.LEASE_SECONDS": LEASE_SECONDS,
        "learner.network.LEASE_SECONDS": LEASE_SECONDS,
        "learner.trainer._SAVE_SECONDS": (0.5, 60.0),  # least and most between two checkpoints
    }
    with (
        FaultProxy(port, field.run.port, SEED) as proxy,
        field.actor(port) as proxied,
        field.actor(procs=2) as others,
    ):

        def partition() -> None:
            with proxy.during(PARTITION):
                ended = 'outrider_fleet_sessions_total{event="lost"}'
                before = field.run.metric(ended, learner)
                until(
                    lambda: field.run.metric(ended, learner) > before, PATIENCE_SECONDS, "a lease that ends"
                )
            plays(field, proxied)

        def freeze() -> None:
            with frozen(chance.choice(others.actors())):
                time.sleep(chance.uniform(0.5, 1.5) * LEASE_SECONDS)
                field.wait_updates(5)
            plays(field, others)

        faults: list[Callable[[], None]] = [partition, freeze]
        chance.shuffle(faults)
        with field.learner() as learner:
            until(
                lambda: min(map(field.made_by, (proxied, others))) > CHUNK_STEPS,
                PATIENCE_SECONDS,
                "all to play",
            )
            for fault in faults:
                fault()
                field.wait_updates(5)
            saved(field)
            time.sleep(chance.uniform(0.0, 1.0))
            kill(learner.pid)
            learner.process.wait()
        with field.learner("--resume", "--local-actors", "1") as learner:
            plays(field, proxied)
            plays(field, others)
            plays(field, learner)
            (victim,) = learner.actors()
            kill(victim.pid)
            plays(field, learner)
            for command in (proxied, others, learner):
                stop(command)
    figures = field.figures(unreported_steps=LANES)  # of the killed local actor, between a step and its note
    epochs = {row["epoch"] for row in field.timeline()}
    assert epochs == {0, 1}
    assert figures["dropped_steps"].get("actor_lost", 0) > 0, figures
    keep("mixed-faults", {"seed": SEED, **figures})
