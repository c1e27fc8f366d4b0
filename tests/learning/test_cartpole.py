"""The whole service solves CartPole, on one seed in the default tier and on three in all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import Run, free_port

pytestmark = pytest.mark.integration

SEEDS = (1, 2, 3)
SOLVED = 475.0  # mean of the last 100 training episodes, of 500 at most
TOTAL_STEPS = 150_000
_RUN_SECONDS = 380.0  # below the limit of faulthandler, which shows where a test stalls


@pytest.mark.parametrize(
    "seed", [SEEDS[0], *(pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS[1:])]
)
def test_cartpole_is_solved_within_150k_steps(seed: int, tmp_path: Path) -> None:
    """The learner and the actor have one thread each; every seed reaches 475."""
    run = Run(tmp_path, free_port(), _arguments(seed))
    with run.learner() as learner:
        assert learner.finish(_RUN_SECONDS) == 0, learner.err.read_text()[-2000:]
    summary = run.summary()
    print(f"cartpole, seed {seed}: {summary['return_mean_100']} after {summary['env_steps']} steps")
    assert float(str(summary["return_mean_100"])) >= SOLVED
    assert summary["imbalance_steps"] == 0


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
