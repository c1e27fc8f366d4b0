"""One key with sixteen sessions that spoil their grants, beside two honest actors of another key."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from common.keys import files
from common.keys.files import read_key_file
from common.process.lifecycle import EXIT_TEMPORARY
from learner.presets import PRESETS
from tests.support.hostile_fleet import SESSIONS, HostileFleet
from tests.support.processes import Command, Run, free_port, wait_until

pytestmark = pytest.mark.integration

STEPS = 4_000  # trained after the hostile key is restricted
RESTRICTED = 'outrider_fleet_sessions_total{event="restricted"}'


def key_file(path: Path, name: str, out: Path) -> Path:
    """Authorise an actor, and write its key file."""
    files.add(path, name)
    files.export(path, name, out)
    return out


def restricted_keys(learner: Command) -> set[str]:
    """The names of the keys that the learner restricted, from its log."""
    rows = learner.err.read_text().split("\n")[:-1]  # the last one is incomplete
    return {json.loads(row)["key"] for row in rows if '"key_restricted"' in row}


def test_honest_actors_train_beside_a_key_that_spoils_its_grants(tmp_path: Path) -> None:
    """The hostile key is named and restricted, and the honest actors lose no session.

    The hostile sessions send no chunk of this generation, so each trained step is one of an honest actor.
    """
    keys = tmp_path / "keys"
    files.initialise(keys)
    honest, hostile = (key_file(keys, name, tmp_path / f"{name}.json") for name in ("alice", "mallory"))
    run = Run(tmp_path, free_port(), ("cartpole", "--total-steps", "1000000000", "--keys", str(keys)))
    address = f"127.0.0.1:{run.port}"
    with run.learner() as learner, contextlib.ExitStack() as stack:
        wait_until(lambda: "learner_serving" in learner.err.read_text(), "the sockets")
        options = ("--learner", address, "--keys", str(honest), "--procs", "2")
        actors = Command.start(tmp_path, "alice", "actor", *options)
        stack.callback(actors.end)
        wait_until(lambda: run.steps_reached(learner, 1), "training")
        rollout = PRESETS["cartpole"].rollout
        fleet = stack.enter_context(HostileFleet(f"tcp://{address}", read_key_file(hostile), rollout))
        wait_until(lambda: run.metric("outrider_fleet_actors", learner) >= SESSIONS, "the hostile sessions")
        wait_until(lambda: "mallory" in restricted_keys(learner), "the restriction of the hostile key")
        wait_until(lambda: run.metric(RESTRICTED, learner) >= 1, "its metric")
        trained = int(run.metric("outrider_run_env_steps", learner))
        wait_until(lambda: run.steps_reached(learner, trained + STEPS), f"{STEPS} more steps")
        for command in (actors, learner):
            command.process.terminate()
            assert command.finish() == EXIT_TEMPORARY, command.err.read_text()[-2000:]
    assert any(peer.grants or peer.credit for peer in fleet.peers)
    assert "session_lost" not in actors.err.read_text()
    summary = run.summary()
    assert summary["exit_reason"] == "stopped"
    assert (summary["imbalance_steps"], summary["in_flight_steps"]) == (0, 0)
    dropped = summary["dropped_steps"]
    assert isinstance(dropped, dict)
    assert not dropped.get("invalid")
    checked = Command.start(tmp_path, "ledger", "learner.verify_ledger", str(run.path))
    assert checked.finish() == 0, checked.out.read_text() + checked.err.read_text()
