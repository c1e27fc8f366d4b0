"""The run directory of release 0.1.0 in tests/support/older_run, with the names of protocol 3, resumes.

The learner of that run was killed twice, and two remote sessions were open. Its checkpoint has trained,
dropped and pending steps, among them steps of an earlier generation, which protocol 3 called an epoch.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from learner import verify_ledger
from learner.training import checkpoint
from tests.support.processes import Run, free_port

pytestmark = pytest.mark.integration

OLDER_RUN = Path(__file__).parents[1] / "support" / "older_run"
BATCH_STEPS, VERSION, GENERATION = 128, 478, 1


@pytest.fixture
def older_run(tmp_path: Path) -> Run:
    shutil.copytree(OLDER_RUN, tmp_path / "run")
    total_steps = str((VERSION + 2) * BATCH_STEPS)
    options = ("--total-steps", total_steps, "--local-actors", "1")
    return Run(tmp_path, free_port(), ("mountain-car-sparse", *options))


def test_an_older_run_resumes_and_accounts_for_every_step(older_run: Run) -> None:
    with older_run.learner("--resume") as learner:
        assert learner.finish() == 0, learner.err.read_text()[-2000:]
    summary = older_run.summary()
    assert (summary["exit_reason"], summary["epoch"]) == ("finished", GENERATION + 1)
    assert summary["trained_steps"] == (VERSION + 2) * BATCH_STEPS
    assert (summary["imbalance_steps"], summary["in_flight_steps"], summary["actors_seen"]) == (0, 0, 3)
    dropped = summary["dropped_steps"]
    assert isinstance(dropped, dict)
    assert dropped["old_generation"] == 256
    assert "epoch" not in dropped
    assert (older_run.path / "generation").read_text() == str(GENERATION + 1)
    assert not (older_run.path / "epoch").exists()
    saved = checkpoint.newest(older_run.path / "checkpoints")
    assert saved is not None
    assert "books" not in saved.meta
    assert verify_ledger.main([str(older_run.path)]) == 0


def test_an_older_ledger_is_verified(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_ledger.main([str(OLDER_RUN)]) == 0
    output = capsys.readouterr().out
    assert "'old_generation': 256" in output
    assert "epoch" not in output
