"""A row of the campaign as a service of containers whose actors are killed in turn."""

from __future__ import annotations

import time
from pathlib import Path

from tests.learning.campaign.rows import Row
from tests.support import container_engine
from tests.support.container_engine import Service

_KILL_SECONDS = 300.0  # from one kill to the next
_UP_SECONDS = 600.0
_TIMEOUT_SECONDS = 24 * 3600.0


def train(row: Row, run_dir: Path) -> None:
    """Run a service to the row's budget, kill an actor every few minutes, and copy the run directory.

    An interrupted run leaves nothing: its volumes are removed.

    Raises:
        AssertionError: a command of the engine failed, or there is no engine.
        TimeoutError: the budget was not reached within a day.
    """
    arm = row.arm
    options = ("--precision", arm.precision, *arm.options)
    variables = {"PRESET": arm.preset, "SEED": str(row.seed), "ARGS": " ".join(options)}
    service = Service({"ACTORS": str(arm.containers)} | variables | container_engine.free_ports())
    with container_engine.engine() as available:
        assert available, "expected a container engine, got none: start one"
        container_engine.build_images()
        try:
            service.compose("up", "--detach", seconds=_UP_SECONDS)
            _wait_for_budget(service, arm.budget_steps)
            [learner] = service.containers("learner")
            service.compose("stop", "learner")
            service.docker("cp", f"{learner.name}:/runs/{arm.preset}-{row.seed}", str(run_dir))
        finally:
            service.down("--volumes")


def _wait_for_budget(service: Service, budget_steps: int) -> None:
    deadline, turn = time.monotonic() + _TIMEOUT_SECONDS, 0
    while not service.value("outrider_run_env_steps") >= budget_steps:  # NaN until the first scrape
        if time.monotonic() > deadline:
            raise TimeoutError(f"expected {budget_steps:,} steps within a day")
        time.sleep(_KILL_SECONDS)
        actors = service.containers("actor")
        actors[turn % len(actors)].kill()
        service.compose("up", "--detach", "--no-recreate", seconds=_UP_SECONDS)
        turn += 1
