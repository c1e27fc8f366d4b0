"""The table of results: rows of runs, and the page that it is written into."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from common.config import PPOConfig, Precision
from learner import table
from learner.presets import PRESETS

PAGE = """# Results

<!-- table: pong -->
old
| lines |
<!-- end -->
between
<!-- table: other -->
<!-- end -->
after
"""


def write_run(
    path: Path,
    seed: int = 1,
    preset: str = "pong",
    ppo: PPOConfig | None = None,
    evaluation: Mapping[str, object] | None = None,
    **summary: object,
) -> Path:
    """A run directory as a learner and an evaluation leave it; keywords replace fields of the summary."""
    config = PRESETS[preset]
    config = dataclasses.replace(config, seed=seed, ppo=ppo or config.ppo)
    path.mkdir()
    (path / "config.json").write_text(config.to_json())
    fields = {
        "env_steps": 1_500_160,
        "return_mean_100": -17.94,
        "wall_seconds": 3_661.5,
        "steps_per_second": 1_210.4,
        "epoch": 0,
        "exit_reason": "finished",
    }
    (path / "summary.json").write_text(json.dumps(fields | summary))
    if evaluation is not None:
        played = {"env_steps": 1_500_160, "episodes": 100, "score_mean": 1_234.56}
        (path / "evaluation.json").write_text(json.dumps({**played, **evaluation}))
    return path


def rows(
    capsys: pytest.CaptureFixture[str], *paths: Path, options: Sequence[str] = ()
) -> list[dict[str, str]]:
    """The rows that the command prints, each by the names of the columns."""
    assert table.main([*map(str, paths), *options]) == 0
    lines = [line.strip("| \n").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert set(lines[1]) == {"---"}
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def error_line(capsys: pytest.CaptureFixture[str], argv: list[str], code: int) -> str:
    assert table.main(argv) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_the_row_of_a_finished_and_evaluated_run_is_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [row] = rows(capsys, write_run(tmp_path / "run", seed=3, evaluation={}))
    assert row == {
        "game": "pong",
        "preset": "pong",
        "seeds": "3",
        "env steps": "1,500,160",
        "last 100 training episodes, each seed": "-17.9",
        "evaluation, mean (each seed)": "1,234.6",
        "evaluation episodes": "100",
        "wall time": "1:01:01",
        "steps/s": "1,210",
    }


def test_seeds_of_one_setting_share_a_row_in_the_order_of_the_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = {"env_steps": 1_024, "score_mean": 10.0, "episodes": 20}
    later = write_run(tmp_path / "b", seed=10, return_mean_100=5.0, evaluation={"score_mean": 20.0})
    early = write_run(tmp_path / "a", seed=2, env_steps=1_024, wall_seconds=60, evaluation=first)
    [row] = rows(capsys, later, early)
    assert row["seeds"] == "2, 10"
    assert row["env steps"] == "1,024 to 1,500,160"
    assert row["last 100 training episodes, each seed"] == "-17.9; 5"
    assert row["evaluation, mean (each seed)"] == "15.0 (10.0; 20.0)"
    assert row["evaluation episodes"] == "20 to 100"
    assert row["wall time"] == "0:01:00; 1:01:01"


def test_settings_that_are_not_the_presets_have_a_row_of_their_own_that_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = dataclasses.replace(PRESETS["pong"].ppo, epochs=2, clip=0.2)
    paths = [write_run(tmp_path / "usual"), write_run(tmp_path / "other", ppo=other)]
    presets = [row["preset"] for row in rows(capsys, *paths)]
    assert presets == ["pong", "pong, ppo.epochs = 2, ppo.clip = 0.2"]


def test_a_resolved_precision_has_a_row_of_its_own_and_is_not_listed_as_a_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The directory does not tell whether a user asked for it; a preset that names one is different."""
    paths = []
    precisions: list[Precision] = ["float32", "float32", "bfloat16"]
    for seed, precision in enumerate(precisions):
        paths.append(write_run(tmp_path / str(seed), seed=seed))
        config = dataclasses.replace(PRESETS["pong"], seed=seed, precision=precision)
        (paths[-1] / "config.json").write_text(config.to_json())
    found = rows(capsys, *paths)
    assert [(row["preset"], row["seeds"]) for row in found] == [("pong", "0, 1"), ("pong", "2")]
    fixed = write_run(tmp_path / "fixed", preset="cartpole")
    config = dataclasses.replace(PRESETS["cartpole"], precision="bfloat16")
    (fixed / "config.json").write_text(config.to_json())
    assert [row["preset"] for row in rows(capsys, fixed)] == ["cartpole, precision = bfloat16"]


def test_the_same_seed_twice_is_two_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write_run(tmp_path / name, seed=4) for name in ("a", "b")]
    assert [row["seeds"] for row in rows(capsys, *paths)] == ["4", "4"]


def test_an_unfinished_run_has_a_dash_for_its_score_and_keeps_its_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = write_run(tmp_path / "whole", seed=1)
    half = write_run(tmp_path / "half", seed=2, exit_reason="stopped", env_steps=512)
    [row] = rows(capsys, whole, half)
    assert row["last 100 training episodes, each seed"] == "-17.9; —"
    assert row["env steps"] == "512 to 1,500,160"


def test_a_seed_without_an_evaluation_has_a_dash_and_so_has_the_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    played, not_played = write_run(tmp_path / "a", 1, evaluation={}), write_run(tmp_path / "b", 2)
    assert rows(capsys, played, not_played)[0]["evaluation, mean (each seed)"] == "— (1,234.6; —)"
    [row] = rows(capsys, not_played)
    assert (row["evaluation, mean (each seed)"], row["evaluation episodes"]) == ("—", "—")


def test_greedy_evaluations_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    greedy, drawn = ({"greedy": kind} for kind in (True, False))
    one, other = (write_run(tmp_path / name, seed, evaluation=greedy) for seed, name in ((1, "a"), (2, "b")))
    assert rows(capsys, one, other)[0]["evaluation episodes"] == "100, greedy"
    third = write_run(tmp_path / "c", 3, evaluation=drawn)
    assert rows(capsys, one, third)[0]["evaluation episodes"] == "100, some greedy"
    assert rows(capsys, third)[0]["evaluation episodes"] == "100"


def test_an_evaluation_before_the_end_of_the_run_does_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [row] = rows(capsys, write_run(tmp_path / "run", evaluation={"env_steps": 1_024}))
    assert row["evaluation, mean (each seed)"] == "—"


def test_a_resumed_run_has_no_wall_time_and_no_speed_if_its_last_process_trained_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [row] = rows(capsys, write_run(tmp_path / "run", epoch=1, steps_per_second=0.0))
    assert (row["wall time"], row["steps/s"]) == ("—", "—")


def test_a_run_in_which_no_episode_ended_has_a_dash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [row] = rows(capsys, write_run(tmp_path / "run", return_mean_100=None))
    assert row["last 100 training episodes, each seed"] == "—"


def test_the_table_replaces_the_text_between_its_markers_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, page = write_run(tmp_path / "run"), tmp_path / "page.md"
    page.write_text(PAGE)
    assert table.main([str(run)]) == 0
    printed = capsys.readouterr().out
    for _ in range(2):  # the second time changes nothing
        assert table.main([str(run), "--into", str(page), "--name", "pong"]) == 0
        assert page.read_text() == PAGE.replace("old\n| lines |\n", printed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.md", "run"]


def test_a_table_is_inserted_between_markers_without_text() -> None:
    assert table.insert(PAGE, "other", r"| \1 |") == PAGE.replace("other -->\n<", "other -->\n| \\1 |\n<")


@pytest.mark.parametrize(
    "page",
    [
        "",
        "<!-- end -->\n",
        "<!-- table: pong -->\n",
        "<!-- end -->\n<!-- table: pong -->\n",
        "<!-- table: pong -->\n<!-- table: other -->\n<!-- end -->\n",
        "text <!-- table: pong -->\n<!-- end -->\n",
        "<!-- table: pong -->\n<!-- end -->\n" * 2,
    ],
)
def test_a_page_without_exactly_one_pair_of_markers_is_not_changed(
    page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = write_run(tmp_path / "run"), tmp_path / "page.md"
    file.write_text(page)
    error = error_line(capsys, [str(run), "--into", str(file), "--name", "pong"], 78)
    assert "<!-- table: pong -->" in error
    assert file.read_text() == page


def test_a_page_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    for file in (tmp_path / "none.md", tmp_path):
        assert str(file) in error_line(capsys, [str(run), "--into", str(file), "--name", "pong"], 78)


@pytest.mark.parametrize("name", ["config.json", "summary.json", "evaluation.json"])
@pytest.mark.parametrize("text", ["", "[]", "{", '{"seed": "one", "env_steps": "many"}'])
def test_a_damaged_file_of_a_run_is_named(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    (run / name).write_text(text)
    assert str(run / name) in error_line(capsys, [str(run)], 78)


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
def test_a_directory_without_the_files_of_a_run_is_refused_and_not_skipped(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, other = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    (other / name).unlink()
    assert str(other / name) in error_line(capsys, [str(whole), str(other)], 78)


@pytest.mark.parametrize("argv", [[], ["run", "--into", "a.md"], ["run", "--name", "a"], ["run", "--to"]])
def test_bad_usage_is_answered_with_one_sentence(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert error_line(capsys, argv, 2).startswith("table: ")
