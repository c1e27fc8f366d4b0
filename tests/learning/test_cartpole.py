"""Learning is shown: CartPole by the whole service, on three seeds."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.integration.processes import Run, free_port

pytestmark = pytest.mark.integration

SEEDS = (1, 2, 3)
SOLVED = 475.0  # mean of the last 100 training episodes, of 500 at most
TOTAL_STEPS = 150_000
_RUN_SECONDS = 400.0


def test_cartpole_is_solved_within_150k_steps_on_three_of_three_seeds(tmp_path: Path) -> None:
    """Two seeds run beside each other on two cores; every one reaches 475."""
    runs = {seed: Run(_directory(tmp_path, seed), free_port(), _arguments(seed)) for seed in SEEDS}
    for some in (SEEDS[:2], SEEDS[2:]):
        with contextlib.ExitStack() as stack:
            for learner in [stack.enter_context(runs[seed].learner()) for seed in some]:
                assert learner.finish(_RUN_SECONDS) == 0, learner.err.read_text()[-2000:]
    summaries = {seed: run.summary() for seed, run in runs.items()}
    scores = {seed: float(str(summary["return_mean_100"])) for seed, summary in summaries.items()}
    print(f"cartpole, {TOTAL_STEPS} steps, mean of 100 episodes by seed: {scores}")
    assert all(score >= SOLVED for score in scores.values()), scores
    assert all(summary["imbalance_steps"] == 0 for summary in summaries.values())


def _directory(parent: Path, seed: int) -> Path:
    directory = parent / str(seed)
    directory.mkdir()
    return directory


def _arguments(seed: int) -> tuple[str, ...]:
    return (
        "cartpole",
        "--seed",
        str(seed),
        "--total-steps",
        str(TOTAL_STEPS),
        "--stop-return",
        str(SOLVED),
        "--local-actors",
        "1",
    )
