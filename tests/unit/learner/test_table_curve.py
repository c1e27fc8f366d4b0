"""The table of learning curves: scores at fixed steps, and the steps and hours to a threshold."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from learner import table
from learner.monitoring import episode_file
from learner.monitoring.episode_file import EpisodeRow
from tests.unit.learner.test_table import error_line, rows, write_run

UPDATE = 100_000  # steps
SCORE_COLUMNS = [f"score at {name}" for name in ("0.5M", "1M", "2M", "4M", "10M")]


def write_curve(path: Path, seed: int, updates: int, slope: float = 1.0, hours: bool = True) -> Path:
    """A run directory without a summary: each update takes an hour and ends 100 episodes of one score."""
    write_run(path, seed)
    (path / "summary.json").unlink()
    ends = range(1, updates + 1)
    episode_file.replace(
        path / "episodes.csv",
        [EpisodeRow(n * UPDATE, 4 * n * UPDATE, 0.0, 0, 0, 1, n * slope) for n in ends for _ in range(100)],
    )
    if hours:
        with SummaryWriter(str(path)) as writer:
            for n in ends:
                writer.add_scalar("train/policy_loss", 0.0, n * UPDATE, walltime=1e9 + 3_600.0 * n)
    return path


def curve_rows(capsys: pytest.CaptureFixture[str], paths: list[Path], *options: str) -> list[dict[str, str]]:
    return rows(capsys, *paths, options=("--curve", *options))


def test_each_score_is_the_mean_over_seeds_and_a_dash_beyond_the_length_of_any(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long, short = write_curve(tmp_path / "a", 1, 40, slope=2.0), write_curve(tmp_path / "b", 2, 20)
    [both] = curve_rows(capsys, [short, long])
    assert both == {
        "game": "pong",
        "preset": "pong",
        "seeds": "1, 2",
        **dict(zip(SCORE_COLUMNS, ["7.5", "15.0", "30.0", "—", "—"], strict=True)),
    }
    [alone] = curve_rows(capsys, [long])
    assert [alone[name] for name in SCORE_COLUMNS] == ["10.0", "20.0", "40.0", "80.0", "—"]


def test_a_run_whose_last_episode_ended_before_its_end_has_a_score_at_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", env_steps=1_000_000)
    episode_file.replace(run / "episodes.csv", [EpisodeRow(600_000, 0, 0.0, 0, 0, 1, 3.0)])
    [row] = curve_rows(capsys, [run])
    assert [row[name] for name in SCORE_COLUMNS] == ["—", "3", "—", "—", "—"]
    (run / "summary.json").unlink()
    [row] = curve_rows(capsys, [run])
    assert [row[name] for name in SCORE_COLUMNS] == ["—"] * 5


def test_steps_and_hours_to_a_threshold_are_medians_over_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A score of 6 is reached in updates 2, 3 and 6; the hours count from the end of the first update."""
    paths = [
        write_curve(tmp_path / str(seed), seed, 8, slope) for seed, slope in ((1, 3.0), (2, 2.0), (3, 1.0))
    ]
    [row] = curve_rows(capsys, paths, "--threshold", "6")
    assert (row["steps to 6"], row["hours to 6"]) == ("300,000", "2.00")
    [row] = curve_rows(capsys, paths[:2], "--threshold", "6")
    assert (row["steps to 6"], row["hours to 6"]) == ("250,000", "1.50")


def test_a_threshold_that_any_seed_never_reaches_has_dashes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write_curve(tmp_path / str(seed), seed, 8, slope) for seed, slope in ((1, 3.0), (2, 1.0))]
    [row] = curve_rows(capsys, paths, "--threshold", "8.5")
    assert (row["steps to 8.5"], row["hours to 8.5"]) == ("—", "—")


def test_a_run_without_events_has_a_dash_for_the_hours_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [row] = curve_rows(capsys, [write_curve(tmp_path / "run", 1, 8, hours=False)], "--threshold", "-6")
    assert (row["steps to -6"], row["hours to -6"]) == ("100,000", "—")


def test_the_table_of_curves_can_be_written_into_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, page = write_curve(tmp_path / "run", 1, 8), tmp_path / "page.md"
    page.write_text("<!-- table: pong -->\n<!-- end -->\n")
    assert table.main([str(run), "--curve"]) == 0
    printed = capsys.readouterr().out
    assert table.main([str(run), "--curve", "--into", str(page), "--name", "pong"]) == 0
    assert page.read_text() == f"<!-- table: pong -->\n{printed}<!-- end -->\n"


def test_a_run_without_episodes_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    assert str(run / "episodes.csv") in error_line(capsys, [str(run), "--curve"], 78)


@pytest.mark.parametrize("argv", [["run", "--threshold", "6"], ["run", "--curve", "--threshold", "much"]])
def test_bad_usage_of_the_threshold_is_answered_with_one_sentence(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--threshold" in error_line(capsys, argv, 2)
