"""Prometheus and Grafana in a project of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.container_engine import Service, script
from tests.support.runbook import blocks

pytestmark = pytest.mark.compose
Make = Callable[..., Service]


def test_one_prometheus_finds_both_learners(service: Make) -> None:
    first = service(1, TOTAL_STEPS="10000000")
    second = Service({**first.variables, "COMPOSE_PROJECT_NAME": "second"})
    monitoring = Service(first.variables, ("deploy/monitoring.yml",))
    [commands] = blocks("Several learners on one machine")
    try:
        script(commands, 900, first.variables)
        monitoring.wait('count(up{job="learner"} == 1) == 2', "two learners")
        monitoring.wait("count(outrider_run_updates >= 1) == 2", "an update of each")
    finally:
        second.down("--volumes")
        monitoring.down("--volumes")
