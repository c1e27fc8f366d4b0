"""The best of several episodes becomes a video in the colours of the task, from a task that a test makes."""

from __future__ import annotations

import importlib.util
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from common import atari, envs
from common.config import Config, EnvConfig, RNDConfig
from common.process.lifecycle import Fatal
from common.rng import RngKey
from common.spaces import Spaces
from learner.evaluation import recording, video
from learner.evaluation.agent import Agent
from learner.evaluation.recording import Pixels, Recording

KEYS = [RngKey(7, 8, episode, warmup=False) for episode in range(4)]
AGENT = cast(
    Agent,
    SimpleNamespace(
        config=Config(env=EnvConfig(id="breakout"), rnd=RNDConfig(enabled=False)),
        spaces=Spaces((84, 84), 4, 3),
        caption="version 3, 60 steps of training",
        act=lambda stack, generators: np.zeros(1, np.int64),
    ),
)


def screen(t: int) -> Pixels:
    """An Atari screen: nine bars of different colours, and a white square that moves with each step."""
    bars = np.linspace((20, 240, 90), (250, 10, 160), 9).astype(np.uint8)
    picture = np.broadcast_to(bars.repeat(24, axis=0)[:210, None], (210, 160, 3)).copy()
    picture[100:108, t % 150 : t % 150 + 8] = 255
    return picture


class FakeGame:
    """One lane: an episode of as many steps as it has rewards."""

    def __init__(self, rewards: list[float]) -> None:
        self.spaces = AGENT.spaces
        self._rewards, self._t = rewards, 0

    def reset(self, seeds: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        return np.zeros((1, 4, 84, 84), np.uint8)

    def step(self, action: npt.NDArray[Any]) -> atari.Transition:
        reward = np.array([self._rewards[self._t]], np.float32)
        self._t += 1
        ended = np.array([self._t == len(self._rewards)])
        stack = np.full((1, 4, 84, 84), self._t % 256, np.uint8)
        never = np.zeros(1, np.bool_)
        return atari.Transition(stack, reward, ended, never, stack[:0, -1], never, np.zeros(1, np.uint8))

    def render(self) -> Pixels:
        return screen(self._t)

    def close(self) -> None:
        pass


@pytest.fixture
def games(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that sets the rewards of each episode to come."""

    def set_rewards(*rewards: list[float]) -> None:
        made = (FakeGame(episode) for episode in rewards)

        def make_rendered(config: EnvConfig) -> tuple[envs.VectorEnv, Callable[[], Pixels]]:
            game = next(made)
            return game, game.render

        monkeypatch.setattr(envs, "make_rendered", make_rendered)

    return set_rewards


@pytest.fixture
def long_recording(games: Callable[..., None]) -> Recording:
    """An episode of 700 steps, which is longer than a GIF, with most of its score in the middle."""
    games([0.0] * 250 + [1.0] * 150 + [0.0] * 299 + [5.0])
    return recording.record(AGENT, KEYS[0])


def test_a_recording_has_the_screen_and_the_observation_before_each_step(games: Callable[..., None]) -> None:
    games([0.0, 2.0, -5.0])
    recorded = recording.record(AGENT, KEYS[0])
    assert (recorded.steps, recorded.ended) == (3, True)
    for t in range(3):
        np.testing.assert_array_equal(recorded.picture(t), screen(t))
        assert (recorded.observation[t] == t).all()
    assert recorded.score.tolist() == [0.0, 0.0, 2.0, -3.0]


@pytest.mark.parametrize(
    ("scores", "best"), [([1, 3, 3, 2], 2), ([-4, -2, -9, -2], 2), ([0, 0, 0, 0], 1), ([1, 2, 3, 4], 4)]
)
def test_the_best_episode_has_the_highest_score_and_is_the_first_of_equals(
    games: Callable[..., None], scores: list[float], best: int
) -> None:
    games(*([0.0, score] for score in scores))
    number, recorded = recording.record_best(AGENT, KEYS)
    assert (number, recorded.score[-1]) == (best, scores[best - 1])


def test_only_the_best_recording_so_far_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Played:
        def __init__(self, score: float) -> None:
            self.score = np.array([0.0, score])

    alive: weakref.WeakSet[Played] = weakref.WeakSet()
    kept = []
    scores = iter([2.0, 1.0, 4.0, 3.0])

    def record(agent: Agent, rng_key: RngKey) -> Played:
        kept.append([played.score[-1] for played in alive])
        played = Played(next(scores))
        alive.add(played)
        return played

    monkeypatch.setattr(recording, "record", record)
    assert recording.record_best(AGENT, KEYS)[0] == 3
    assert kept == [[], [2.0], [2.0], [4.0]]


@pytest.mark.parametrize("scale", video.FORMATS.values())
def test_a_frame_shows_the_screen_of_a_game_in_its_colours_scaled_by_a_whole_factor(
    games: Callable[..., None], scale: int
) -> None:
    games([1.0, 0.0])
    canvas = video.Canvas(recording.record(AGENT, KEYS[0]), None, range(2), scale, ("game", "caption"))
    frame = np.asarray(canvas.frame(1))
    shown = screen(1).repeat(scale, axis=0).repeat(scale, axis=1)
    height, width, _ = shown.shape
    left = (frame.shape[1] - width) // 2
    rows = range(frame.shape[0] - height)
    assert [top for top in rows if (frame[top : top + height, left : left + width] == shown).all()]


def test_the_strips_are_below_the_screen_and_change_with_the_steps(long_recording: Recording) -> None:
    """Without a bonus there is one strip less, and frames of one screen differ below the screen only."""
    bonus = np.linspace(0.1, 0.3, long_recording.steps)
    one, two = (
        video.Canvas(long_recording, curve, range(10, 320), 2, ("game", "caption")) for curve in (None, bonus)
    )
    assert one.frame(10).height < two.frame(10).height
    first, second = np.asarray(two.frame(10)), np.asarray(two.frame(160))  # the square is at the same place
    rows = np.flatnonzero((first != second).any(axis=(1, 2)))
    assert rows.size
    assert rows[0] > screen(0).shape[0] * 2


@pytest.mark.parametrize("seed", range(4))
def test_the_part_of_a_gif_has_the_most_score_and_is_the_first_of_equals(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "GIF_STEPS", 6)
    score = np.cumsum([0, *np.random.default_rng(seed).integers(-1, 3, 40)]).astype(np.float64)
    gains = [score[start + 6] - score[start] for start in range(40 - 6 + 1)]
    part = video.best_part(score)
    assert (part.start, part.stop) == (gains.index(max(gains)), gains.index(max(gains)) + 6)


def test_a_gif_without_a_score_shows_the_beginning_and_a_short_episode_is_whole() -> None:
    assert video.best_part(np.zeros(1_000)) == range(0, video.GIF_STEPS, video.GIF_STRIDE)
    assert video.best_part(np.arange(38.0)) == range(0, 37, video.GIF_STRIDE)
    assert video.best_part(np.arange(2.0)) == range(0, 1, video.GIF_STRIDE)


def test_a_gif_is_small_and_has_the_colours_and_the_time_of_the_game(
    long_recording: Recording, tmp_path: Path
) -> None:
    file = tmp_path / "game.gif"
    bonus = np.random.default_rng(3).random(long_recording.steps)
    video.write(file, long_recording, bonus, AGENT)
    part = video.best_part(long_recording.score)
    canvas = video.Canvas(long_recording, bonus, part, video.FORMATS[".gif"], ("Breakout", AGENT.caption))
    assert list(tmp_path.iterdir()) == [file]
    assert file.stat().st_size < 1_000_000
    with Image.open(file) as image:
        assert image.width < 350
        assert image.n_frames == len(part) + 1  # type: ignore[attr-defined]  # a GIF has it
        milliseconds = 0
        for number, step in enumerate([*part, part.stop]):
            image.seek(number)
            if number < len(part):
                milliseconds += image.info["duration"]
            difference = np.asarray(image.convert("RGB")).astype(int) - np.asarray(canvas.frame(step))
            assert np.abs(difference).mean() < 1
    assert milliseconds / 1_000 == pytest.approx(video.GIF_STEPS * AGENT.config.env.frame_skip / 60, rel=0.05)


def test_only_an_mp4_needs_the_optional_packages(
    games: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    games([0.0], [0.0])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    video.check(tmp_path / "game.gif", AGENT)
    with pytest.raises(Fatal, match=r"outrider\[video\]"):
        video.check(tmp_path / "game.mp4", AGENT)
    assert list(tmp_path.iterdir()) == []


def test_the_line_about_a_video_names_the_episode_and_its_size(
    games: Callable[..., None], tmp_path: Path
) -> None:
    games([0.0], [0.0, 2.0, 1.0], [3.0], [1.0])
    file = tmp_path / "game.gif"
    line = video.make(file, AGENT, KEYS)
    assert f"{file} ({file.stat().st_size / 1e6:.2f} MB)" in line
    assert "episode 2 of 4" in line
    assert "score, 3, in 3 steps" in line
