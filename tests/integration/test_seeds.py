"""One command trains several seeds, one after the other, in one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.processes import Run, free_port

pytestmark = pytest.mark.integration


def test_resumed_seeds_leave_the_finished_one_as_it_is_and_train_the_next(tmp_path: Path) -> None:
    """Seed 1 is complete and makes no more steps; seed 2 has not run, and trains to its end."""
    run = Run(tmp_path, free_port(), ("cartpole", "--total-steps", "512", "--local-actors", "1"))
    for seeds in ("1", "1,2"):
        with run.learner("--resume", "--seeds", seeds) as learner:
            assert learner.finish() == 0, learner.err.read_text()[-2000:]
    directories = [run.path / f"seed-{seed}" for seed in (1, 2)]
    summaries = [json.loads((directory / "summary.json").read_text()) for directory in directories]
    assert [summary["seed"] for summary in summaries] == [1, 2]
    assert [summary["trained_steps"] for summary in summaries] == [512, 512]
    assert [summary["exit_reason"] for summary in summaries] == ["finished"] * 2
    assert [summary["imbalance_steps"] for summary in summaries] == [0, 0]
    lines = [line for line in learner.out.read_text().splitlines() if line.startswith("run ")]
    assert lines == [f"run finished: {directory}" for directory in directories]
