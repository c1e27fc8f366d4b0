"""Every seed learns every task of the presets with the command that docs/results.md names.

Thresholds and budgets were fixed before these seeds were run. `pytest -m learning` takes hours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import Command, free_port

pytestmark = pytest.mark.learning

_HOURS = 6 * 3600.0


@dataclass(frozen=True)
class Task:
    """A command line, and the score its agents have to reach or must not exceed."""

    arguments: tuple[str, ...]
    seeds: int
    least: float = float("-inf")
    most: float = float("inf")
    evaluation: tuple[str, ...] = ()


DEEP_SEA = (
    *("mountain-car-sparse", "--env.id", "tests.support.deep_sea:DeepSea-20-v0", "--ppo.anneal"),
    "--ppo.normalise-advantages",
    *("--ppo.entropy-coef", "0.01", "--ppo.coef-extrinsic", "5", "--ppo.coef-intrinsic", "50"),
)
TASKS = {
    "cartpole": Task(("cartpole",), 5, least=475.0),
    "pendulum": Task(("pendulum",), 3, least=-250.0),
    "mountain-car-sparse": Task(("mountain-car-sparse",), 5, least=0.9),
    "mountain-car-sparse without a bonus": Task(("mountain-car-sparse", "--rnd.no-enabled"), 5, most=0.0),
    "deep sea": Task(DEEP_SEA, 5, least=0.9 * 0.99),
    "deep sea without a bonus": Task((*DEEP_SEA, "--rnd.no-enabled"), 5, most=0.01),
    "bipedal-walker": Task(
        ("bipedal-walker", "--total-steps", "2500000"), 1, least=250.0, evaluation=("--greedy",)
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_every_seed_reaches_its_score(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    seeds = ",".join(str(seed) for seed in range(1, task.seeds + 1))
    runs = tmp_path / "runs"
    argv = ("learner", *task.arguments, "--seeds", seeds, "--local-actors", "2", "--run-dir", str(runs))
    _run(tmp_path, "train", *argv, "--bind", f"tcp://127.0.0.1:{free_port()}")
    scores = {}
    for run in sorted(runs.iterdir()):
        played = ("learner.evaluate", str(run), "--episodes", "100", *task.evaluation)
        _run(tmp_path, f"evaluate-{run.name}", *played)
        scores[run.name] = json.loads((run / "evaluation.json").read_text())["score_mean"]
    print(f"{name}: {scores}")
    assert all(task.least <= score <= task.most for score in scores.values()), scores


def _run(directory: Path, name: str, *argv: str) -> None:
    command = Command.start(directory, name, *argv)
    try:
        assert command.finish(_HOURS) == 0, command.err.read_text()[-2000:]
    finally:
        command.end()
