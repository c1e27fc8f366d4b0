"""Writes the best of several episodes as a video: what a player sees, with its score and its bonus over time.

An MP4 shows the whole episode; a GIF shows the part with the most score, small enough for a README.
imageio and its ffmpeg belong to the optional extra `video`. Only this module imports them, for an MP4.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from common import atari, envs
from common.model.bonus import BonusModel
from common.process.lifecycle import EXIT_CONFIGURATION, Fatal
from common.rng import RngKey
from learner.evaluation.agent import Agent
from learner.evaluation.recording import F64, Recording, record_best
from learner.runs import unwritable_file

EPISODES = 4  # episodes to choose from
HOLD_FRAMES = 15  # repetitions of the last frame in an MP4
GIF_STEPS = 300  # most steps in a GIF; 20 seconds of an Atari game
GIF_STRIDE = 2  # steps from one frame of a GIF to the next
_GIF_COLOURS = 255  # one less than a GIF can have: the last one marks pixels that do not change
_GIF_HOLD_MILLISECONDS = 2_000
_IMAGE_FPS = 15  # real time: 60 emulator frames a second, 4 to a step
_VECTOR_FPS = 30

# Lengths are in units: a unit is as wide as a pixel of an Atari screen.
FORMATS = {".mp4": 3, ".gif": 2}  # pixels per unit
_SIDE = 160  # width of the picture
_MARGIN = 4
_HEAD = 24
_STRIP = 24  # height of a curve
_LABEL = 11  # height of the label above it
_FOOT = 11
_TITLE, _VALUE, _PLAIN = 8, 6, 5  # font sizes
_SHARP = 3  # factor by which curves are drawn larger and then reduced, which smooths them
_GROUND, _PANEL, _TEXT, _QUIET = (15, 18, 24), (25, 30, 39), (235, 239, 245), (139, 149, 165)
_SCORE, _BONUS = (247, 183, 74), (86, 194, 255)
Colour = tuple[int, int, int]


def check(path: Path, agent: Agent) -> None:
    """Check that a recording is possible, before the episodes are played.

    Raises:
        Fatal: a package is missing, the task cannot be rendered, or `path` cannot be written.
    """
    for package in ("imageio", "imageio_ffmpeg") if path.suffix == ".mp4" else ():
        if importlib.util.find_spec(package) is None:
            raise Fatal(
                EXIT_CONFIGURATION,
                f"expected the package {package} for --video {path}, got none: pip install 'outrider[video]'",
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
        envs.make_rendered(agent.config.env)[0].close()
    except envs.EnvUnavailable as error:
        raise Fatal(EXIT_CONFIGURATION, str(error)) from None


def make(path: Path, agent: Agent, rng_keys: Sequence[RngKey]) -> str:
    """Play one episode per key and write the best one; return a line that says which, and its size.

    Raises:
        Fatal: `path` cannot be written.
    """
    number, recording = record_best(agent, rng_keys)
    bonus = compute_bonus(agent, recording.observation) if agent.config.rnd.enabled else None
    write(path, recording, bonus, agent)
    return (
        f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB): episode {number} of {len(rng_keys)}, "
        f"which has the highest score, {recording.score[-1]:,.0f}, in {recording.steps:,} steps"
    )


def compute_bonus(agent: Agent, observation: npt.NDArray[np.generic]) -> F64:
    """Return the bonus of each observation, [N, ...] -> [N], with the predictor of the checkpoint."""
    model = BonusModel(agent.spaces, agent.config, agent.target)
    model.load(agent.bundle)
    return model.compute_bonus(observation[:, None])[:, 0].astype(np.float64)


def write(path: Path, recording: Recording, bonus: F64 | None, agent: Agent) -> None:
    """Encode the video; `path` exists only once it is complete."""
    temporary = _temporary(path)
    fps = _IMAGE_FPS if agent.spaces.is_image else _VECTOR_FPS
    rom = atari.rom_of(agent.config.env.id)
    game = agent.config.env.id if rom is None else rom.replace("_", " ").title()
    part, encode = range(recording.steps), _encode_mp4
    if path.suffix == ".gif":
        part, encode = best_part(recording.score), _encode_gif
    canvas = Canvas(recording, bonus, part, FORMATS[path.suffix], (game, agent.caption))
    try:
        encode(temporary, canvas, fps)
        temporary.rename(path)
    except OSError as error:
        raise unwritable_file(path, error, "name a file in a writable directory") from None
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.part{path.suffix}")  # the ending is the format


def best_part(score: F64) -> range:
    """Return the steps of a GIF, from the score [n + 1]: every `GIF_STRIDE`-th of one part of the episode.

    The part has `GIF_STEPS` steps, or all of a shorter episode. It is the part in which the score increases
    most, and the first of equals: the beginning of an episode without a score.
    """
    length = min(len(score) - 1, GIF_STEPS)
    start = int((score[length:] - score[: len(score) - length]).argmax())
    return range(start, start + length, GIF_STRIDE)


def _encode_mp4(file: Path, canvas: Canvas, fps: int) -> None:
    import imageio.v2 as imageio  # the optional extra

    with imageio.get_writer(file, fps=fps, codec="libx264", quality=8, macro_block_size=2) as out:
        for step in [*canvas.part, *[canvas.part.stop] * HOLD_FRAMES]:
            out.append_data(np.asarray(canvas.frame(step)))  # type: ignore[attr-defined]  # a writer has it


def _encode_gif(file: Path, canvas: Canvas, fps: int) -> None:
    """Write an animation that repeats. All frames have one palette, so that unchanged pixels cost little."""
    samples = np.hstack([np.asarray(canvas.frame(step)) for step in canvas.part[::10]])
    palette = Image.fromarray(samples).quantize(_GIF_COLOURS)
    steps = [*canvas.part, canvas.part.stop]
    frames = (canvas.frame(step).quantize(palette=palette, dither=Image.Dither.NONE) for step in steps)
    milliseconds = round(100 * GIF_STRIDE / fps) * 10  # GIF counts hundredths of a second
    durations = [*[milliseconds] * len(canvas.part), _GIF_HOLD_MILLISECONDS]
    next(frames).save(file, save_all=True, append_images=frames, duration=durations, loop=0, optimize=True)


class Canvas:
    """Draws the frames of a part of a recording."""

    def __init__(
        self, recording: Recording, bonus: F64 | None, part: range, scale: int, heading: tuple[str, str]
    ) -> None:
        self.part = part
        self._recording, self._scale = recording, scale
        shown, steps = slice(part.start, part.stop + 1), part.stop - part.start
        self._strips = [_Strip("score", recording.score[shown], steps, scale, _SCORE, "{:,.0f}")]
        if bonus is not None:
            label = "bonus (prediction error)"
            self._strips.append(_Strip(label, bonus[shown], steps, scale, _BONUS, "{:.3g}"))
        rows, columns, _ = recording.shape
        self._size = (_SIDE * scale, round(_SIDE * scale * rows / columns))
        height = (_HEAD + len(self._strips) * (_LABEL + _STRIP) + _FOOT) * scale + self._size[1]
        # H.264 needs even sides.
        self._empty = Image.new("RGB", ((_SIDE + 2 * _MARGIN) * scale, height + height % 2), _GROUND)
        draw = ImageDraw.Draw(self._empty)
        title, caption = heading
        draw.text((_MARGIN * scale, 11 * scale), title, _TEXT, _font(_TITLE * scale, bold=True), anchor="ls")
        draw.text((_MARGIN * scale, 19 * scale), caption, _QUIET, _font(_PLAIN * scale), anchor="ls")

    def frame(self, step: int) -> Image.Image:
        """Draw the frame before a step, or the frame after the last step."""
        scale, steps = self._scale, self._recording.steps
        frame = self._empty.copy()
        frame.paste(self._resized(min(step, steps - 1)), (_MARGIN * scale, _HEAD * scale))
        top = _HEAD * scale + self._size[1]
        for strip in self._strips:
            strip.paint(frame, top, step - self.part.start)
            top += (_LABEL + _STRIP) * scale
        draw, baseline = ImageDraw.Draw(frame), top + 7 * scale
        font = _font(_PLAIN * scale)
        draw.text((_MARGIN * scale, baseline), f"step {step:,} of {steps:,}", _TEXT, font, anchor="ls")
        if step == steps:
            ending = "end of episode" if self._recording.ended else f"recorded {steps:,} steps only"
            draw.text(((_MARGIN + _SIDE) * scale, baseline), ending, _SCORE, font, anchor="rs")
        return frame

    def _resized(self, step: int) -> Image.Image:
        """Return a picture at the width of the video; whole factors keep its pixels sharp."""
        picture = Image.fromarray(self._recording.picture(step))
        whole = self._size[0] % picture.width == 0
        return picture.resize(self._size, Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


class _Strip:
    """A curve over all steps of a part, bright up to the present step."""

    def __init__(self, label: str, values: F64, steps: int, scale: int, colour: Colour, form: str) -> None:
        self._values, self._steps, self._scale = values, steps, scale
        self._colour, self._form = colour, form
        self._low, self._high = min(0.0, float(values.min())), max(0.0, float(values.max()))
        name, far = ("maximum", self._high) if self._high >= -self._low else ("minimum", self._low)
        self._label = f"{label}, {name} {form.format(far)}"
        self._bright, self._dim = self._curve(colour), self._curve(_mixed(colour, 0.4))

    def _height(self, value: float) -> float:
        """Return the distance of a value from the top of the strip, with a margin above and below."""
        share = (value - self._low) / ((self._high - self._low) or 1.0)
        return (_STRIP - 2 - share * (_STRIP - 5)) * self._scale

    def _curve(self, colour: Colour) -> Image.Image:
        width, height = _SIDE * self._scale, _STRIP * self._scale
        large = Image.new("RGB", (width * _SHARP, height * _SHARP), _PANEL)
        draw = ImageDraw.Draw(large)
        x = np.arange(len(self._values)) / self._steps * (width * _SHARP - 1)
        points = [(float(a), self._height(b) * _SHARP) for a, b in zip(x, self._values, strict=True)]
        zero = self._height(0.0) * _SHARP
        draw.polygon([(points[0][0], zero), *points, (points[-1][0], zero)], fill=_mixed(colour, 0.25))
        draw.line([*points, points[-1]], colour, 2 * _SHARP, "curve")
        return large.resize((width, height), Image.Resampling.LANCZOS)

    def paint(self, frame: Image.Image, top: int, t: int) -> None:
        """Draw label, curve and the present step into the frame, from row `top` on."""
        scale, draw = self._scale, ImageDraw.Draw(frame)
        width, height, left = _SIDE * scale, _STRIP * scale, _MARGIN * scale
        now = float(self._values[min(t, len(self._values) - 1)])
        baseline = top + (_LABEL - 3) * scale
        draw.text((left, baseline), self._label, _QUIET, _font(_PLAIN * scale), anchor="ls")
        value, font = self._form.format(now), _font(_VALUE * scale, bold=True)
        draw.text((left + width, baseline), value, self._colour, font, anchor="rs")
        top += _LABEL * scale
        x = round(t / self._steps * (width - 1))
        frame.paste(self._dim, (left, top))
        frame.paste(self._bright.crop((0, 0, x + 1, height)), (left, top))
        draw.line([(left + x, top), (left + x, top + height - 1)], _TEXT, 1)
        y, radius = top + self._height(now), scale + 1
        dot = [(left + x - radius, y - radius), (left + x + radius, y + radius)]
        draw.ellipse(dot, self._colour, _TEXT)


def _mixed(colour: Colour, share: float) -> Colour:
    """Return the colour mixed with the background of a strip."""
    red, green, blue = (round(share * c + (1 - share) * p) for c, p in zip(colour, _PANEL, strict=True))
    return red, green, blue


@functools.cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the font that matplotlib includes, so that no font has to be installed."""
    file = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / file, size)
