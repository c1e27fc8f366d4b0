"""The campaign of learning runs: commands of its rows, records of run directories, and their table."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from learner.commandline import parse
from learner.monitoring import episode_file
from learner.monitoring.episode_file import EpisodeRow
from tests.learning.campaign import record, report
from tests.learning.campaign.report import Record
from tests.learning.campaign.rows import ARMS, ROWS, Arm

ARM = Arm(name="x", title="X", preset="smoke", seeds=(1, 2), budget_steps=1_000, target=10.0)


def kept(env_steps: int = 1_000, score: float | None = 12.0, seed: int = 1) -> Record:
    return {
        "arm": "x",
        "seed": seed,
        "command": "c",
        "processor": "p",
        "commit": "abc",
        "summary": {"env_steps": env_steps},
        "evaluation": None if score is None else {"score_mean": score, "score_std": 2.0, "episodes": 50},
        "curve": {"env_steps": [400, 800], "score": [None, 5.0], "hours": [0.1, 0.2], "bonus": [1.0, 0.5]},
    }


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_each_row_is_a_valid_command(row: object, tmp_path: Path) -> None:
    assert isinstance(row, type(ROWS[0]))
    ((config, _),) = parse([*row.arm.command(row.seed), "--run-dir", str(tmp_path)])
    assert (config.seed, config.precision) == (row.seed, row.arm.precision)
    assert config.total_steps >= row.arm.budget_steps


def test_each_row_has_a_name_of_its_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_a_curve_has_the_mean_of_the_last_100_episodes_at_its_updates(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    updates = range(128, 128 * 401, 128)
    with SummaryWriter(str(tmp_path)) as writer:
        for step in updates:
            writer.add_scalar("train/policy_loss", 0.0, step, walltime=step)
            writer.add_scalar("train/intrinsic_reward_mean", 1 / step, step, walltime=step)
    scores = np.random.default_rng(0).normal(size=350)
    rows = [EpisodeRow(128 * (n + 30), 0, 0.0, 0, 0, 1, float(score)) for n, score in enumerate(scores)]
    episode_file.replace(tmp_path / "episodes.csv", rows)
    curve = record.curve(tmp_path)
    assert len(curve["env_steps"]) == record.POINTS
    assert (curve["env_steps"][0], curve["env_steps"][-1]) == (updates[0], updates[-1])
    assert all(
        before < after for before, after in itertools.pairwise(map(float, map(str, curve["env_steps"])))
    )
    assert curve["score"][0] is None
    assert curve["score"][-1] == pytest.approx(scores[-100:].mean(), rel=1e-3)
    assert curve["bonus"][-1] == pytest.approx(1 / updates[-1], rel=1e-3)
    assert set(curve["explained_variance"]) == {None}


def test_the_state_of_a_row_says_how_far_it_is() -> None:
    assert report.state(ARM, None) == "not run"
    assert report.state(ARM, kept(600)) == "600 of 1,000 steps"
    assert report.state(ARM, kept()) == "finished"


def test_the_score_at_a_milestone_is_that_of_the_first_update_after_it() -> None:
    assert report.score_at(kept(), 300) is None
    assert report.score_at(kept(), 500) == 5.0
    assert report.score_at(kept(), 900) is None


def test_the_page_replaces_its_section_alone() -> None:
    text = "before\n<!-- campaign -->\nold\n<!-- end of campaign -->\nafter\n"
    written = report.page({}, text)
    assert written.startswith("before\n<!-- campaign -->\n| run |")
    assert written.endswith("<!-- end of campaign -->\nafter\n")
    assert "old" not in written
    assert report.page({}, written) == written


def test_a_missed_target_is_reported_as_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "ARMS", (ARM,))
    verdicts = {}
    for name, scores in {"met": (12.0, 9.0), "missed": (9.0, 9.0), "open": (12.0,)}.items():
        records = {f"x-{seed}": kept(score=score, seed=seed) for seed, score in enumerate(scores, 1)}
        verdicts[name] = report.section(records).splitlines()[2].split("|")[-2].strip()
    assert verdicts == {"met": "met", "missed": "missed", "open": "open"}


def test_a_target_above_random_play_has_a_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a standard deviation of 2 over 100 episodes, three standard errors are 0.6."""
    monkeypatch.setattr(report, "ARMS", (dataclasses.replace(ARM, standard_errors=3),))
    verdicts = []
    for score in (10.0, 10.59, 10.61):
        records = {f"x-{seed}": kept(score=score, seed=seed) for seed in (1, 2)}
        verdicts.append(report.section(records).splitlines()[2].split("|")[-2].strip())
    assert verdicts == ["missed", "missed", "met"]


def test_every_arm_with_a_bonus_is_compared_with_its_twin() -> None:
    names = {arm.name for arm in ARMS}
    games = ("freeway", "gravitar", "venture", "montezuma")
    assert {game for game in games if f"{game}-no-bonus" not in names} == set()


def test_the_picture_has_a_curve_for_each_arm_that_was_run() -> None:
    """A run without a value yet, and an arm that was not run, have none."""
    records = {f"freeway-{seed}": kept(seed=seed) for seed in (1, 2)}
    records["freeway-no-bonus-1"] = {**kept(), "curve": {**kept()["curve"], "bonus": [None, None]}}
    figure = report.draw(records, ("freeway", "freeway-no-bonus", "pong"))
    scores, bonus = figure.axes
    labels = scores.get_legend_handles_labels()[1]
    assert labels == ["Freeway, PPO+RND", "Freeway, its twin without a bonus"]
    assert len(bonus.lines) == 3  # two seeds and their mean
