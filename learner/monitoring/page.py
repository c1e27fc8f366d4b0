"""The live page: a run at a glance, in a browser. Nothing is computed until somebody asks.

Readers' threads build it from what network and trainer show anyway, at most once a second whoever asks
and how often.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import common
from common.config import Config
from common.http_server import Answer, Answers
from learner.monitoring.bottleneck import SIDES, Recent, Seconds, busy, held_back
from learner.monitoring.curve import Point
from learner.monitoring.progress_line import ProgressFacts
from learner.server.status import ServerStatus
from learner.training.status import ChunkPreview, TrainerStatus

_FRESH_SECONDS = 1.0
_FILE = Path(__file__).with_name("page.html")


def status(
    config: Config,
    line: ProgressFacts,
    view: ServerStatus,
    progress: TrainerStatus,
    points: tuple[Point, ...],
    recent: tuple[Seconds, Seconds],
) -> dict[str, object]:
    """The run at one moment, as numbers and plain text for JSON.

    Args:
        recent: seconds by phase of trainer and actors, over about the last minute.
    """
    shares = busy(*recent)
    side = held_back(progress.version, view.actors, shares)
    left_steps, shown = line.total_steps - line.env_steps, progress.preview
    newest = Point(line.env_steps, line.return_mean, line.bonus)
    return {
        "software": common.__version__,
        "preset": config.preset,
        "task": config.env.id,
        "seed": config.seed,
        "version": progress.version,
        "side": side,
        "sentence": SIDES[side],
        "warmup": line.warmup,
        "env_steps": line.env_steps,
        "total_steps": line.total_steps,
        "frames": line.frames,
        "steps_per_second": line.steps_per_second,
        "left_seconds": left_steps / line.steps_per_second if line.steps_per_second else None,
        "update_age_seconds": _age(progress.last_update_at),
        "return_mean": line.return_mean,
        "bonus": line.bonus,
        "has_bonus": config.rnd.enabled,
        "max_lag": config.max_lag,
        "lags": dict(sorted(progress.lags.items())),
        "produced_steps": view.totals.produced,
        "trained_steps": view.totals.trained,
        "dropped_steps": {reason: steps for reason, steps in view.totals.dropped.items() if steps},
        "in_flight_steps": view.totals.in_flight,
        "imbalance_steps": view.totals.imbalance,
        "busy": shares,
        "learner_phases": _shares(recent[0]),
        "actor_phases": _shares(recent[1]),
        "actors": view.actors,
        "fleet": [seated._asdict() for seated in sorted(view.fleet)],
        "curve": [*points, newest] if progress.version > 0 else [],
        "scene": [shown.slot, shown.version] if shown is not None else None,
    }


def _age(moment: float | None) -> float | None:
    return None if moment is None else time.monotonic() - moment


def _shares(seconds: Seconds) -> Mapping[str, float]:
    whole = sum(seconds.values())
    return {name: spent / whole for name, spent in seconds.items()} if whole else {}


def scene(shown: ChunkPreview | None) -> dict[str, object]:
    """What a lane met, for JSON: images as base64 of T x 84 x 84 bytes; empty before the first update."""
    if shown is None:
        return {}
    images = None if shown.images is None else base64.b64encode(shown.images.tobytes()).decode()
    return {
        "slot": shown.slot,
        "version": shown.version,
        "bonus": shown.bonus.tolist(),
        "reward": shown.reward.tolist(),
        "done": shown.done.tolist(),
        "images": images,
    }


class Page:
    """The answers to readers, the same for all of them."""

    def __init__(
        self,
        config: Config,
        line: Callable[[], ProgressFacts],
        view: Callable[[], ServerStatus],
        progress: Callable[[], TrainerStatus],
        points: Callable[[], tuple[Point, ...]],
    ) -> None:
        self._config, self._line, self._view = config, line, view
        self._progress, self._points = progress, points
        self._recent = Recent()
        self._recent.since({}, {})  # the first reader sees sums from the start on
        self._lock = threading.Lock()
        self._status, self._until = b"", 0.0
        self._scene: tuple[ChunkPreview | None, bytes] | None = None
        html = _FILE.read_bytes()
        self._html = Answer("text/html; charset=utf-8", html, {"Content-Security-Policy": _policy(html)})

    @property
    def answers(self) -> Answers:
        """By path."""
        return {
            "/": lambda: self._html,
            "/status.json": self._answer_status,
            "/scene.json": self._answer_scene,
        }

    def _answer_status(self) -> Answer:
        with self._lock:
            now = time.monotonic()
            if now >= self._until:
                view, progress = self._view(), self._progress()
                recent = self._recent.since(progress.phase_seconds, view.actor_phases)
                value = status(self._config, self._line(), view, progress, self._points(), recent)
                self._status, self._until = _json(value), now + _FRESH_SECONDS
            return Answer("application/json", self._status)

    def _answer_scene(self) -> Answer:
        with self._lock:
            shown = self._progress().preview
            if self._scene is None or self._scene[0] is not shown:
                self._scene = (shown, gzip.compress(_json(scene(shown)), compresslevel=1))
            return Answer("application/json", self._scene[1], {"Content-Encoding": "gzip"})


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _policy(html: bytes) -> str:
    """Content-Security-Policy: the page's own script and style to the last byte, its own learner, no more."""
    rules = ["default-src 'none'", "connect-src 'self'", "img-src data:", "base-uri 'none'"]
    rules += ["form-action 'none'", "frame-ancestors 'none'"]
    for name in (b"script", b"style"):
        found = re.findall(rb"<%b>(.*?)</%b>" % (name, name), html, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in found]
        rules.append(" ".join([f"{name.decode()}-src", *(f"'sha256-{value}'" for value in hashes)]))
    return "; ".join(rules)
