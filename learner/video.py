"""Records one episode as a video: what the agent sees, with its score and its bonus over time.

imageio and its ffmpeg belong to the optional extra `video`. Only this module imports them, on demand.
"""

from __future__ import annotations

import functools
import importlib.util
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from common import atari, envs
from common.model.bonus import BonusModel
from common.process.lifecycle import EXIT_CONFIGURATION, Fatal
from common.rng import RngKey, environment_seeds
from learner.agent import Agent
from learner.runs import unwritable_file

MAX_STEPS = 4_500  # five minutes of an Atari game: 18,000 frames
HOLD_FRAMES = 15  # repetitions of the last frame
_IMAGE_FPS = 15  # real time: 60 emulator frames a second, 4 to a step
_VECTOR_FPS = 30

_SIDE = 504  # pixels: 84 x 6
_MARGIN = 28
_HEAD = 76
_STRIP = 72  # height of a curve
_LABEL = 34  # height of the label above it
_SHARP = 3  # factor by which curves are drawn larger and then reduced, which smooths them
_GROUND, _PANEL, _TEXT, _QUIET = (15, 18, 24), (25, 30, 39), (235, 239, 245), (139, 149, 165)
_SCORE, _BONUS = (247, 183, 74), (86, 194, 255)
Pixels = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """An episode, or its first `MAX_STEPS` steps."""

    pictures: list[bytes]  # [n] compressed, each `shape` uint8
    shape: tuple[int, ...]  # [H, W] or [H, W, 3]
    observation: npt.NDArray[np.generic]  # [n, ...], the newest one at each picture
    score: F64  # [n + 1] so far, before each step and after the last
    ended: bool  # whether the episode ended


def check(path: Path, agent: Agent) -> None:
    """Check that a recording is possible, before the episodes are played.

    Raises:
        Fatal: a package is missing, the task cannot be drawn, or `path` cannot be written.
    """
    for package in ("imageio", "imageio_ffmpeg"):
        if importlib.util.find_spec(package) is None:
            raise Fatal(
                EXIT_CONFIGURATION,
                f"expected the package {package} for --video, got none: pip install 'outrider[video]'",
            )
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a directory")
        temporary = _temporary(path)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise unwritable_file(path, error, "name a file in a writable directory") from None
    try:
        _make_lane(agent)[0].close()
    except envs.EnvUnavailable as error:
        raise Fatal(EXIT_CONFIGURATION, str(error)) from None


def _make_lane(agent: Agent) -> tuple[envs.VectorEnv, Callable[[], Pixels] | None]:
    """Return one lane, and a function that renders it, or None if its observations are images."""
    if agent.spaces.is_image:
        return envs.make(agent.config.env, 1), None
    return envs.make_rendered(agent.config.env)


def make(path: Path, agent: Agent, rng_key: RngKey) -> int:
    """Record one episode; return its number of steps.

    Raises:
        Fatal: `path` cannot be written.
    """
    recording = record(agent, rng_key)
    bonus = compute_bonus(agent, recording.observation) if agent.config.rnd.enabled else None
    write(path, recording, bonus, agent)
    return len(recording.pictures)


def record(agent: Agent, rng_key: RngKey) -> Recording:
    """Play one episode in one lane and keep every picture."""
    env, render = _make_lane(agent)
    generators = rng_key.generators(1)
    pictures: list[bytes] = []
    observation, score, ended = [], [0.0], False
    try:
        stack = env.reset(environment_seeds(generators))
        while not ended and len(pictures) < MAX_STEPS:
            picture = stack[0, -1] if render is None else _resized(render())
            pictures.append(zlib.compress(picture.tobytes(), 1))
            observation.append(stack[0, -1].copy())
            transition = env.step(agent.act(stack, generators))
            stack = transition.stack
            score.append(score[-1] + float(transition.reward[0]))
            ended = bool(transition.terminated[0] or transition.truncated[0])
    finally:
        env.close()
    return Recording(pictures, picture.shape, np.stack(observation), np.array(score), ended)


def _resized(picture: Pixels) -> Pixels:
    """Return a rendered picture at the width of the video."""
    height = round(picture.shape[0] * _SIDE / picture.shape[1])
    return np.asarray(Image.fromarray(picture).resize((_SIDE, height), Image.Resampling.LANCZOS))


def compute_bonus(agent: Agent, observation: npt.NDArray[np.generic]) -> F64:
    """Return the bonus of each observation, [N, ...] -> [N], with the predictor of the checkpoint."""
    model = BonusModel(agent.spaces, agent.config, agent.target)
    model.load(agent.bundle)
    return model.compute_bonus(observation[:, None])[:, 0].astype(np.float64)


def write(path: Path, recording: Recording, bonus: F64 | None, agent: Agent) -> None:
    """Encode the video; `path` exists only once it is complete."""
    import imageio.v2 as imageio  # the optional extra

    temporary = _temporary(path)
    fps = _IMAGE_FPS if agent.spaces.is_image else _VECTOR_FPS
    try:
        with imageio.get_writer(temporary, fps=fps, codec="libx264", quality=8, macro_block_size=2) as out:
            for frame in frames(recording, bonus, agent):
                out.append_data(frame)  # type: ignore[attr-defined]  # a writer has it
        temporary.rename(path)
    except OSError as error:
        raise unwritable_file(path, error, "name a file in a writable directory") from None
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.part.mp4")  # ffmpeg takes the format from the ending


def frames(recording: Recording, bonus: F64 | None, agent: Agent) -> Iterator[Pixels]:
    """Yield the frames of the video, uint8 [H, W, 3]: one per step, then the last one `HOLD_FRAMES` times."""
    count = len(recording.pictures)
    scale = _SIDE // recording.shape[1]
    width, height = recording.shape[1] * scale, recording.shape[0] * scale
    strips = [_Strip("score", recording.score, count, _SCORE, "{:,.0f}")]
    if bonus is not None:
        strips.append(_Strip("bonus (prediction error)", bonus, count, _BONUS, "{:.3g}"))
    base = _empty(height + len(strips) * (_LABEL + _STRIP), agent)
    right = base.width - _MARGIN
    for t in [*range(count), *[count] * HOLD_FRAMES]:
        frame = base.copy()
        raw = np.frombuffer(zlib.decompress(recording.pictures[min(t, count - 1)]), np.uint8)
        picture = Image.fromarray(raw.reshape(recording.shape)).resize(
            (width, height), Image.Resampling.NEAREST
        )
        frame.paste(picture, ((frame.width - width) // 2, _HEAD))
        draw = ImageDraw.Draw(frame)
        draw.text((right, 42), f"step {t:,} of {count:,}", _TEXT, _font(14), anchor="rs")
        if t == count:
            ending = "end of episode" if recording.ended else f"recorded {count:,} steps only"
            draw.text((right, 60), ending, _SCORE, _font(14), anchor="rs")
        for number, strip in enumerate(strips):
            strip.paint(frame, _HEAD + height + number * (_LABEL + _STRIP), t)
        yield np.asarray(frame)


def _empty(content: int, agent: Agent) -> Image.Image:
    """Return a frame with its heading and room for `content` pixels of height; H.264 needs even sides."""
    total = _HEAD + content + _MARGIN
    base = Image.new("RGB", (_SIDE + 2 * _MARGIN, total + total % 2), _GROUND)
    rom = atari.rom_of(agent.config.env.id)
    game = agent.config.env.id if rom is None else rom.replace("_", " ").title()
    draw = ImageDraw.Draw(base)
    draw.text((_MARGIN, 14), game, _TEXT, _font(24, bold=True))
    draw.text((_MARGIN, 46), agent.caption, _QUIET, _font(14))
    return base


class _Strip:
    """A curve over the whole episode, bright up to the present step."""

    def __init__(self, label: str, values: F64, steps: int, colour: Colour, form: str) -> None:
        self._label, self._values, self._steps = label, values, steps
        self._colour, self._form = colour, form
        self._low, self._high = min(0.0, float(values.min())), max(0.0, float(values.max()))
        self._bright, self._dim = self._curve(colour), self._curve(_mixed(colour, 0.4))

    def _height(self, value: float) -> float:
        """Return the distance of a value from the top of the strip, with a margin above and below."""
        share = (value - self._low) / ((self._high - self._low) or 1.0)
        return _STRIP - 6 - share * (_STRIP - 14)

    def _curve(self, colour: Colour) -> Image.Image:
        large = Image.new("RGB", (_SIDE * _SHARP, _STRIP * _SHARP), _PANEL)
        draw = ImageDraw.Draw(large)
        x = np.arange(len(self._values)) / self._steps * (_SIDE * _SHARP - 1)
        points = [(float(a), self._height(b) * _SHARP) for a, b in zip(x, self._values, strict=True)]
        zero = self._height(0.0) * _SHARP
        draw.polygon([(points[0][0], zero), *points, (points[-1][0], zero)], fill=_mixed(colour, 0.25))
        draw.line([*points, points[-1]], colour, 2 * _SHARP, "curve")
        small = large.resize((_SIDE, _STRIP), Image.Resampling.LANCZOS)
        far, row = (self._high, 4) if self._high >= -self._low else (self._low, _STRIP - 18)
        ImageDraw.Draw(small).text((6, row), self._form.format(far), _QUIET, _font(11))
        return small

    def paint(self, frame: Image.Image, top: int, t: int) -> None:
        """Draw label, curve and the present step into the frame, from row `top` on."""
        draw = ImageDraw.Draw(frame)
        now = float(self._values[min(t, len(self._values) - 1)])
        baseline = top + _LABEL - 9
        draw.text((_MARGIN, baseline), self._label, _QUIET, _font(14), anchor="ls")
        value = self._form.format(now)
        draw.text((_MARGIN + _SIDE, baseline), value, self._colour, _font(18, bold=True), anchor="rs")
        left, top = _MARGIN, top + _LABEL
        x = round(t / self._steps * (_SIDE - 1))
        frame.paste(self._dim, (left, top))
        frame.paste(self._bright.crop((0, 0, x + 1, _STRIP)), (left, top))
        draw.line([(left + x, top), (left + x, top + _STRIP - 1)], _TEXT, 1)
        y = top + self._height(now)
        draw.ellipse([(left + x - 4, y - 4), (left + x + 4, y + 4)], self._colour, _TEXT)


def _mixed(colour: Colour, share: float) -> Colour:
    """Return the colour mixed with the background of a strip."""
    red, green, blue = (round(share * c + (1 - share) * p) for c, p in zip(colour, _PANEL, strict=True))
    return red, green, blue


@functools.cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the font that matplotlib includes, so that no font has to be installed."""
    file = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / file, size)
