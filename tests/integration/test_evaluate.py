"""`learner.evaluate` plays episodes with the agent of a run, reports scores and records a video."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from common import envs
from common.config import Config, EnvConfig, NetworkConfig, RolloutConfig
from common.rng import RngKey
from learner import evaluate
from learner.evaluation import recording, video
from learner.evaluation.agent import load_agent
from learner.presets import PRESETS
from learner.training import checkpoint
from learner.training.checkpoint import Checkpoint
from learner.training.normaliser import Normaliser
from learner.training.ppo import PPO

pytestmark = pytest.mark.integration

VERSION = 3
MAX_FRAMES = 148  # 37 steps, fewer than any game of Breakout has


def write_run(path: Path, config: Config) -> Path:
    """Write a run directory with one checkpoint, as a trainer does."""
    spaces = envs.spaces(config.env)
    ppo = PPO(config, spaces, torch.device("cpu"))
    normaliser = Normaliser(spaces, config)
    shape = (spaces.stack + 8, 2, *spaces.observation)
    normaliser.observe(np.random.default_rng(5).integers(0, 255, shape).astype(spaces.dtype))
    tensors = {f"model.{name}": value for name, value in ppo.tensors().items()}
    tensors |= {f"target.{name}": value for name, value in ppo.target.state_dict().items()}
    tensors |= {f"normaliser.{name}": value for name, value in normaliser.state().items()}
    meta = {"config": config.to_json(), "version": VERSION, "accounting": "", "episodes": {}}
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.json").write_text(config.to_json())
    checkpoint.save(path / "checkpoints", VERSION, Checkpoint(tensors, meta))
    return path


@pytest.fixture(scope="module")
def breakout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = dataclasses.replace(
        PRESETS["smoke"],
        env=EnvConfig(id="breakout", max_frames=MAX_FRAMES),
        rollout=RolloutConfig(steps=5, lanes=2, batch_lanes=4),
    )
    return write_run(tmp_path_factory.mktemp("runs") / "breakout", config)


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = dataclasses.replace(PRESETS["cartpole"], network=NetworkConfig(hidden=7))
    return write_run(tmp_path_factory.mktemp("runs") / "cartpole", config)


def decoded(file: Path, ffmpeg: str) -> npt.NDArray[np.uint8]:
    """Every frame of a video, scaled down: uint8 [N, 82, 56, 3]."""
    options = ["-vf", "scale=56:82", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    command = [ffmpeg, "-loglevel", "error", "-i", str(file), *options]
    ended = subprocess.run(command, capture_output=True, timeout=60, check=True)
    return np.frombuffer(ended.stdout, np.uint8).reshape(-1, 82, 56, 3)


def error_of(capsys: pytest.CaptureFixture[str], argv: list[str], code: int) -> str:
    """The one sentence on standard error, without the log lines, which are JSON here."""
    assert evaluate.main(argv) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    return lines[0]


def test_scores_of_an_atari_run_are_printed_and_written(
    breakout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(breakout), "--episodes", "3", "--seed", "2"]) == 0
    written = json.loads((breakout / "evaluation.json").read_text())
    assert written["episodes"] == len(written["scores"]) == 3
    assert written["lengths"] == [MAX_FRAMES // 4] * 3
    assert (written["version"], written["env_steps"], written["seed"]) == (VERSION, VERSION * 5 * 4, 2)
    assert written["score_mean"] == pytest.approx(np.mean(written["scores"]))
    assert "score" in capsys.readouterr().out


def test_the_same_seed_plays_the_same_games(cartpole: Path) -> None:
    agent = load_agent(cartpole)
    first, repeated, other = (evaluate.play(agent, 5, seed, lambda done: None) for seed in (1, 1, 2))
    assert first == repeated != other


def test_a_greedy_agent_does_not_sample(cartpole: Path) -> None:
    """Its episodes differ from those of a sampling agent, and the report says that it is greedy."""
    greedy, sampling = load_agent(cartpole, greedy=True), load_agent(cartpole)
    played = evaluate.play(greedy, 5, 1, lambda done: None)
    assert played != evaluate.play(sampling, 5, 1, lambda done: None)
    assert [evaluate.report(agent, played, 1)["greedy"] for agent in (greedy, sampling)] == [True, False]


def test_every_lane_plays_its_own_quota_of_episodes_of_any_length(cartpole: Path) -> None:
    """Of 33 episodes the lanes play 3, 2, 2, ...; a lane's episodes are its first ones, short or long."""
    agent = load_agent(cartpole)
    played = evaluate.play(agent, 33, 0, lambda done: None)
    more = evaluate.play(agent, 48, 0, lambda done: None)
    quota = [3] + [2] * 15
    assert len(played) == sum(quota) == 33
    of_more = [more[3 * lane : 3 * lane + count] for lane, count in enumerate(quota)]
    assert played == [episode for mine in of_more for episode in mine]


def test_a_video_of_an_atari_run_has_a_frame_for_every_step(
    breakout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("imageio")
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    file = tmp_path / "video.mp4"
    assert evaluate.main([str(breakout), "--episodes", "1", "--video", str(file)]) == 0
    frames = decoded(file, ffmpeg.get_ffmpeg_exe())
    assert len(frames) == MAX_FRAMES // 4 + video.HOLD_FRAMES
    assert frames[9].std() > 20
    assert np.abs(frames[9].astype(int) - frames[30].astype(int)).max() > 40
    assert list(tmp_path.iterdir()) == [file]
    assert "37 steps" in capsys.readouterr().out


def test_a_gif_of_an_atari_run_needs_no_optional_package(
    breakout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("imageio", "imageio.v2", "imageio_ffmpeg"):
        monkeypatch.setitem(sys.modules, name, None)
    file = tmp_path / "video.gif"
    assert evaluate.main([str(breakout), "--episodes", "1", "--video", str(file)]) == 0
    with Image.open(file) as image:
        assert image.n_frames == len(range(0, MAX_FRAMES // 4, video.GIF_STRIDE)) + 1  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == [file]
    line = capsys.readouterr().out.splitlines()[-1]
    assert f"of {video.EPISODES}" in line
    assert "37 steps" in line


def test_the_bonus_of_a_video_is_the_error_of_the_run_s_predictor(breakout: Path) -> None:
    agent = load_agent(breakout)
    observation = np.random.default_rng(3).integers(0, 255, (3, 84, 84), np.uint8)
    bonus = video.compute_bonus(agent, observation)
    assert bonus.shape == (3,)
    assert (bonus > 0).all()
    assert len(set(bonus.tolist())) == 3


def test_a_video_of_a_vector_task_shows_what_the_task_renders(cartpole: Path, tmp_path: Path) -> None:
    pytest.importorskip("imageio")
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    pytest.importorskip("pygame")
    file = tmp_path / "video.mp4"
    assert evaluate.main([str(cartpole), "--episodes", "1", "--video", str(file)]) == 0
    frames = decoded(file, ffmpeg.get_ffmpeg_exe())
    assert len(frames) > video.HOLD_FRAMES + 7
    assert np.abs(frames[0].astype(int) - frames[-1].astype(int)).max() > 40


def test_a_video_is_no_longer_than_its_bound(breakout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MAX_STEPS", 5)
    recorded = recording.record(load_agent(breakout), RngKey(1, 2, 3, warmup=False))
    lengths = len(recorded.pictures), len(recorded.observation), len(recorded.score)
    assert (*lengths, recorded.ended) == (5, 5, 6, False)
    assert recorded.picture(4).shape == (210, 160, 3)


def test_a_task_that_cannot_be_rendered_is_refused_before_the_first_game(
    cartpole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setitem(sys.modules, "pygame", None)
    monkeypatch.setattr(evaluate, "play", lambda *args: pytest.fail("it played"))
    assert "CartPole-v1" in error_of(capsys, [str(cartpole), "--video", str(tmp_path / "a.mp4")], 78)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "RUN_DIR"),
        (["x", "--episodes", "0"], "at least 1, got '0'"),
        (["x", "--episodes", "many"], "got 'many'"),
        (["x", "--video", "film.avi"], "film.avi"),
        (["x", "--vidoe", "video.mp4"], "--vidoe"),
    ],
)
def test_bad_usage_is_answered_with_one_sentence(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in error_of(capsys, argv, 2)


def test_a_directory_without_a_checkpoint_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert str(tmp_path / "none") in error_of(capsys, [str(tmp_path / "none")], 78)
    assert str(tmp_path) in error_of(capsys, [str(tmp_path)], 78)


def test_a_damaged_checkpoint_is_refused_and_an_older_whole_one_is_used(
    cartpole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (cartpole / "checkpoints" / f"{VERSION:09d}.safetensors").read_bytes()
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "000000009.safetensors").write_bytes(data[:-100])
    assert "damaged" in error_of(capsys, [str(tmp_path)], 78)
    (folder / "000000008.safetensors").write_bytes(data)
    assert evaluate.main([str(tmp_path), "--episodes", "2"]) == 0


def test_a_checkpoint_of_another_release_is_refused(
    cartpole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = checkpoint.newest(cartpole / "checkpoints")
    assert saved is not None
    (tmp_path / "checkpoints").mkdir()
    for tensors, meta in (
        ({}, saved.meta),
        (saved.tensors, saved.meta | {"config": "{}"}),
        ({k: v for k, v in saved.tensors.items() if "actor" not in k}, saved.meta),
    ):
        checkpoint.save(tmp_path / "checkpoints", 1, Checkpoint(tensors, meta))
        assert "release" in error_of(capsys, [str(tmp_path)], 78)


def test_a_video_that_cannot_be_written_is_refused_before_the_first_game(
    breakout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "play", lambda *args: pytest.fail("it played"))
    pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "taken.mp4").mkdir()
    for file in (tmp_path / "none" / "video.mp4", tmp_path / "taken.mp4"):
        assert str(file) in error_of(capsys, [str(breakout), "--video", str(file)], 78)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "outrider[video]" in error_of(capsys, [str(breakout), "--video", str(tmp_path / "a.mp4")], 78)


def test_the_command_ends_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "learner.evaluate", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 78
    assert ended.stderr.startswith("evaluate: expected a checkpoint in ")
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout == ""
