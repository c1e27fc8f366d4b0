"""Every command of the runbook succeeds as a reader runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.container_engine import Service, script, shell
from tests.support.runbook import blocks

pytestmark = pytest.mark.compose
Make = Callable[..., Service]

# Sections whose commands another test runs.
ELSEWHERE = {
    "Several learners on one machine": "test_monitoring.test_one_prometheus_finds_both_learners",
    "More machines": "test_remote_actors.test_actors_of_three_engines_and_the_loss_of_one",
    "Add a machine": "test_machines.test_a_machine_is_added_as_the_runbook_says",
    "Many machines: Swarm": "test_machines.test_a_swarm_trains_scales_and_survives_the_loss_of_a_machine",
    "Dashboards": "the tests of the dashboards",
    "Alerts": "the tests of the alerts",
}
HERE = (
    "Start",
    "Find Grafana's password",
    "Scale",
    "Rotate keys",
    "Upgrade",
    "Get checkpoints, curves and videos out",
    "Evaluate a run",
    "Stop and resume",
    "Use a GPU",
)


def test_the_runbook_from_start_to_stop(service: Make, tmp_path: Path) -> None:
    """With `smoke` instead of `breakout` and 2 or 3 actors, for two cores."""
    fleet = service(2, TOTAL_STEPS="10000000")
    outputs = {}
    for section in HERE:
        text = "\n".join(blocks(section))
        for written, run in (
            ("actor=32", "actor=3"),
            ("actor=16", "actor=2"),
            ("breakout", "smoke"),
            ("tar -xf -", f"tar -C {tmp_path} -xf -"),
        ):
            text = text.replace(written, run)
        outputs[section] = script(text, 900, fleet.variables)
        if section in ("Start", "Scale", "Rotate keys", "Upgrade"):
            fleet.wait("outrider_run_updates >= 1", f"an update after {section}")
            fleet.wait(
                f"outrider_fleet_actors == {3 if section == 'Start' else 2}",
                f"all actors after {section}",
                180,
            )
    assert len(outputs["Find Grafana's password"].strip()) == 24
    assert "smoke-1" in outputs["Get checkpoints, curves and videos out"]
    assert list(tmp_path.glob("runs/smoke-1/checkpoints/*.safetensors"))
    out = shell(
        ["docker", "run", "--rm", "-v", "outrider_runs:/runs", "outrider-learner", "ls", "runs/smoke-1"]
    ).stdout
    assert {"smoke.mp4", "smoke.png", "evaluation.json"} <= set(out.split())
