"""`learner.plot` draws the curves of run directories."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from learner import plot
from learner.monitoring.run_logger import RunLogger
from learner.presets import PRESETS
from learner.runs import group_by_settings
from learner.training.episodes import Episode

pytestmark = pytest.mark.integration


def write_run(
    path: Path,
    preset: str,
    seed: int,
    rnd: bool,
    updates: int = 30,
    scalars: Mapping[str, float] | None = None,
) -> Path:
    """Write a run directory as a learner does, with made-up scores that rise."""
    config = PRESETS[preset]
    config = dataclasses.replace(config, seed=seed, rnd=dataclasses.replace(config.rnd, enabled=rnd))
    path.mkdir()
    (path / "config.json").write_text(config.to_json())
    logger = RunLogger(path, 0)
    generator = np.random.default_rng(seed)
    for update in range(1, updates + 1):
        steps = update * 640
        scores = generator.normal(update, 2.0, 3)
        ended = [Episode(0, lane, 50, float(score)) for lane, score in enumerate(scores)]
        logger.episodes(ended, steps, 4 * steps, 1.5 * update)
        logger.scalars({"train/intrinsic_reward_mean": 1.0 / update, **(scalars or {})}, steps)
    logger.close()
    return path


def error_of(capsys: pytest.CaptureFixture[str], argv: list[str], code: int) -> str:
    """The one sentence that a failed command writes to standard error."""
    assert plot.main(argv) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def has_colour(file: Path, colour: str) -> bool:
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(pixels - wanted).max(2) < 8).sum() > 200)


def test_one_run_becomes_a_picture_with_its_curve(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", "breakout", 1, rnd=True)
    file = tmp_path / "one.png"
    assert plot.main([str(run), "-o", str(file)]) == 0
    with Image.open(file) as picture:
        assert picture.width >= 1000
    assert has_colour(file, plot.COLOURS[0])
    assert not has_colour(file, plot.COLOURS[1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "one.png"]


def test_points_are_means_of_the_last_hundred_raw_scores(tmp_path: Path) -> None:
    run = plot.load_run(write_run(tmp_path / "run", "breakout", 1, rnd=True, updates=41))
    rows = np.loadtxt(tmp_path / "run" / "episodes.csv", delimiter=",", skiprows=1)
    scores = rows[:, 6]
    assert run.curve.x.tolist() == [640.0 * n for n in range(1, 42)]
    assert run.curve.y[-1] == pytest.approx(scores[-100:].mean())
    assert run.curve.y[4] == pytest.approx(scores[:15].mean())


def test_a_run_without_a_bonus_has_no_second_panel(tmp_path: Path) -> None:
    runs = [plot.load_run(write_run(tmp_path / str(rnd), "pong", 1, rnd=rnd)) for rnd in (False, True)]
    assert [len(plot.draw([run]).axes) for run in runs] == [1, 2]
    assert len(plot.draw(runs).axes) == 2


def test_seeds_of_one_setting_share_a_mean_and_other_settings_keep_their_own_line(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / f"on-{seed}", "pong", seed, rnd=True) for seed in (1, 2, 3)]
    paths += [write_run(tmp_path / "off", "pong", 1, rnd=False)]
    runs = [plot.load_run(path) for path in paths]
    found = group_by_settings(runs)
    assert [len(group) for group in found] == [3, 1]
    assert plot.labels(found) == ["rnd.enabled = True, 3 seeds", "rnd.enabled = False"]
    file = tmp_path / "all.png"
    assert plot.main([*map(str, paths), "-o", str(file)]) == 0
    assert has_colour(file, plot.COLOURS[0])
    assert has_colour(file, plot.COLOURS[1])


def test_the_same_seed_twice_is_not_averaged(tmp_path: Path) -> None:
    runs = [plot.load_run(write_run(tmp_path / name, "pong", 7, rnd=True)) for name in ("a", "b")]
    assert plot.labels(group_by_settings(runs)) == ["a", "b"]


def test_frames_are_those_of_the_episodes_and_hours_those_of_the_updates_without_pauses(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "run", "pong", 1, rnd=True, updates=4)
    with SummaryWriter(str(run), filename_suffix=".times") as writer:
        for update, seconds in enumerate((36.0, 72.0, 108.0, 108.0 + 86_400.0), start=1):
            writer.add_scalar("train/policy_loss", 0.0, 640 * update, walltime=1e9 + seconds)
    frames, hours = (plot.load_run(run, axis=axis) for axis in ("frames", "hours"))
    assert frames.curve.x.tolist() == [2560.0, 5120.0, 7680.0, 10240.0]
    np.testing.assert_allclose(hours.curve.x, [0.0, 0.01, 0.02, 0.03])
    for run_over in (frames, hours):
        assert run_over.bonus is not None
        assert run_over.bonus.x.tolist() == run_over.curve.x.tolist()


def test_rooms_and_bonus_are_scalars_of_the_events_in_one_panel(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", "pong", 1, rnd=True, updates=3, scalars={"episodes/rooms_found": 2.0})
    rooms, bonus = (plot.load_run(path, metric) for metric in ("rooms", "bonus"))
    assert rooms.curve.x.tolist() == [640.0, 1280.0, 1920.0]
    assert rooms.curve.y.tolist() == [2.0, 2.0, 2.0]
    np.testing.assert_allclose(bonus.curve.y, [1.0, 1 / 2, 1 / 3], rtol=1e-6)
    for run, metric in ((rooms, "rooms"), (bonus, "bonus")):
        (axes,) = plot.draw([run], metric).axes
        assert axes.get_ylabel().startswith({"rooms": "rooms", "bonus": "intrinsic reward"}[metric])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--metric", "rooms"], "episodes/rooms_found"),
        (["--metric", "bonus"], "train/intrinsic_reward_mean"),
        (["--x", "hours"], "--x steps"),
    ],
)
def test_a_run_without_what_is_asked_for_is_answered_with_one_sentence(
    options: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", "pong", 1, rnd=False, updates=2)
    error = error_of(capsys, [str(run), "-o", str(tmp_path / "a.png"), *options], 78)
    assert named in error
    assert str(run) in error
    assert not (tmp_path / "a.png").exists()


def test_several_arms_with_all_options_are_one_picture(tmp_path: Path) -> None:
    paths = [
        write_run(
            tmp_path / f"{preset}-{seed}", preset, seed, rnd=True, scalars={"episodes/rooms_found": rooms}
        )
        for preset, rooms in (("montezuma", 3.0), ("venture", 1.0))
        for seed in (1, 2)
    ]
    file = tmp_path / "a.png"
    argv = [*map(str, paths), "-o", str(file), "--metric", "rooms", "--x", "frames"]
    assert plot.main(argv) == 0
    assert has_colour(file, plot.COLOURS[0])
    assert has_colour(file, plot.COLOURS[1])


def test_unreadable_rows_and_one_that_is_still_being_written_are_left_out_with_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", "pong", 1, rnd=False)
    before = plot.load_run(run).curve
    assert capsys.readouterr().err == ""
    with (run / "episodes.csv").open("a") as file:
        file.write("19840,79\n19840,79360,5.0,0,1,50,1")
    assert plot.load_run(run).curve.y.tolist() == before.y.tolist()
    assert capsys.readouterr().err == f"warning: skipped 2 unreadable rows of {run}/episodes.csv\n"


def test_damaged_events_remove_only_the_second_panel(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "pong", 1, rnd=True)
    for events in run.glob("events.*"):
        events.write_bytes(bytes(range(256)) * 5)
    assert len(plot.draw([plot.load_run(run)]).axes) == 1


@pytest.mark.parametrize(
    "text",
    [None, "", "env_steps,score\n", "a,b\n1,2\n", "env_steps,score\n64,much\n", "env_steps,score\n64\n"],
)
def test_unusable_episodes_are_answered_with_one_sentence(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(PRESETS["pong"].to_json())
    if text is not None:
        (tmp_path / "episodes.csv").write_text(text)
    text = error_of(capsys, [str(tmp_path), "-o", str(tmp_path / "a.png")], 78)
    assert str(tmp_path / "episodes.csv") in text


def test_an_output_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", "pong", 1, rnd=False)
    (tmp_path / "taken.png").mkdir()
    for file in (tmp_path / "none" / "a.png", tmp_path / "taken.png"):
        assert str(file) in error_of(capsys, [str(run), "-o", str(file)], 78)


@pytest.mark.parametrize("argv", [[], ["run"], ["run", "-o", "a.jpeg"], ["run", "-o", "a.png", "--colour"]])
def test_bad_usage_is_answered_with_one_sentence(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, argv, 2).startswith("plot: ")


def test_the_command_ends_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "learner.plot", str(tmp_path / "none"), "-o", str(tmp_path / "a.png")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 78
    assert ended.stderr.startswith("plot: expected the configuration of a run in ")
    assert len(ended.stderr.splitlines()) == 1
