"""The files of a finished run, and the commands that read them."""

from __future__ import annotations

import csv
import json

import pytest

from learner import evaluate, plot, table, verify_ledger
from tests.integration.conftest import FINISHED_STEPS
from tests.support.processes import Run

pytestmark = pytest.mark.integration


def test_a_run_trains_its_total_steps_and_accounts_for_every_step(finished_run: Run) -> None:
    """The summary accounts for every step and agrees with the independent count of emulator steps."""
    summary = finished_run.summary()
    assert summary["exit_reason"] == "finished"
    assert summary["trained_steps"] == summary["env_steps"] == 1_024 >= FINISHED_STEPS
    assert summary["frames"] == 4 * 1_024
    assert (summary["imbalance_steps"], summary["in_flight_steps"], summary["actors_seen"]) == (0, 0, 2)
    assert summary["dropped_steps"]["warmup"] == 256  # type: ignore[index]
    assert summary["produced_steps"] == finished_run.counted_steps()
    assert float(str(summary["intrinsic_reward_mean"])) > 0.0
    with (finished_run.path / "episodes.csv").open() as file:
        assert 0 < len(list(csv.DictReader(file))) == summary["episodes"]
    assert list(finished_run.path.glob("events.out.tfevents.*"))
    assert list((finished_run.path / "checkpoints").glob("*.safetensors"))


def test_its_ledger_adds_up(finished_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_ledger.main([str(finished_run.path)]) == 0
    assert "1024" in capsys.readouterr().out.replace(",", "")


def test_it_resumes_with_more_total_steps(copied_run: Run) -> None:
    """The counters continue from their values."""
    before = copied_run.summary()
    with copied_run.learner("--resume", "--total-steps", str(FINISHED_STEPS + 256)) as learner:
        assert learner.finish() == 0, learner.err.read_text()[-2000:]
    summary = copied_run.summary()
    assert (summary["exit_reason"], summary["epoch"]) == ("finished", 1)
    assert summary["trained_steps"] == int(str(before["trained_steps"])) + 256
    assert int(str(summary["episodes"])) >= int(str(before["episodes"]))
    assert (summary["imbalance_steps"], summary["in_flight_steps"]) == (0, 0)


def test_its_agent_plays(copied_run: Run) -> None:
    assert evaluate.main([str(copied_run.path), "--episodes", "1"]) == 0
    written = json.loads((copied_run.path / "evaluation.json").read_text())
    assert written["env_steps"] == copied_run.summary()["env_steps"]
    assert written["episodes"] == len(written["scores"]) == 1


def test_its_curve_is_drawn_and_its_result_tabulated(
    copied_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = copied_run.directory / "curve.png"
    assert plot.main([str(copied_run.path), "-o", str(picture)]) == 0
    assert picture.stat().st_size > 0
    capsys.readouterr()
    assert table.main([str(copied_run.path)]) == 0
    assert "breakout" in capsys.readouterr().out
