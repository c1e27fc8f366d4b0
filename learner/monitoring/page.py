"""The live page, which shows the state of a run in a browser.

The threads of the HTTP server build the state on request, from the status of trainer and server. They build
it at most once per second, so that the number of readers does not matter.
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
from common.http_server import Response, Routes
from learner.monitoring.bottleneck import CAUSES, Fleet, Seconds, TimeWindow, bottleneck, time_shares
from learner.monitoring.curve import Point
from learner.monitoring.progress_line import ProgressFacts
from learner.server.status import ServerStatus
from learner.training.status import ChunkPreview, TrainerStatus

_MAX_AGE_SECONDS = 1.0  # after which a response is built again
_FILE = Path(__file__).with_name("page.html")


def run_status(
    config: Config,
    facts: ProgressFacts,
    server: ServerStatus,
    trainer: TrainerStatus,
    points: tuple[Point, ...],
    recent: tuple[Seconds, Seconds],
) -> dict[str, object]:
    """Return the present state of the run, as values for JSON.

    Args:
        config: the configuration of the run.
        facts: the values of the progress line.
        server, trainer: the newest status.
        points: the curves of return and bonus so far.
        recent: seconds by phase of trainer and of actors, over about the last minute.
    """
    fleet = Fleet.of(config, server.actors)
    shares = time_shares(*recent, fleet)
    cause = bottleneck(trainer.version, trainer.warmup_chunks, fleet, shares)
    remaining_steps, preview = facts.total_steps - facts.env_steps, trainer.preview
    newest = Point(facts.env_steps, facts.return_mean, facts.bonus)
    return {
        "software": common.__version__,
        "preset": config.preset,
        "task": config.env.id,
        "seed": config.seed,
        "version": trainer.version,
        "cause": cause,
        "bottleneck": CAUSES[cause],
        "cause_shares": shares,
        "warmup": facts.warmup,
        "env_steps": facts.env_steps,
        "total_steps": facts.total_steps,
        "frames": facts.frames,
        "steps_per_second": facts.steps_per_second,
        "remaining_seconds": remaining_steps / facts.steps_per_second if facts.steps_per_second else None,
        "update_age_seconds": _age_seconds(trainer.last_update_at),
        "return_mean": facts.return_mean,
        "bonus": facts.bonus,
        "has_bonus": config.rnd.enabled,
        "max_lag": config.max_lag,
        "lags": dict(sorted(trainer.lags.items())),
        "produced_steps": server.totals.produced,
        "trained_steps": server.totals.trained,
        "dropped_steps": {reason: steps for reason, steps in server.totals.dropped.items() if steps},
        "in_flight_steps": server.totals.in_flight,
        "imbalance_steps": server.totals.imbalance,
        "learner_phases": _shares(recent[0]),
        "actor_phases": _shares(recent[1]),
        "actors": server.actors,
        "batch_chunks": config.rollout.batch_chunks,
        "fleet": [session._asdict() for session in sorted(server.fleet)],
        "curve": [*points, newest] if trainer.version > 0 else [],
        "preview": [preview.slot, preview.version] if preview is not None else None,
    }


def _age_seconds(moment: float | None) -> float | None:
    return None if moment is None else time.monotonic() - moment


def _shares(seconds: Seconds) -> Mapping[str, float]:
    total = sum(seconds.values())
    return {name: spent / total for name, spent in seconds.items()} if total else {}


def preview_values(preview: ChunkPreview | None) -> dict[str, object]:
    """Return a preview as values for JSON, its images [T, 84, 84] uint8 in base64; {} without a preview."""
    if preview is None:
        return {}
    images = None if preview.images is None else base64.b64encode(preview.images.tobytes()).decode()
    return {
        "slot": preview.slot,
        "version": preview.version,
        "bonus": preview.bonus.tolist(),
        "reward": preview.reward.tolist(),
        "done": preview.done.tolist(),
        "images": images,
    }


class Page:
    """Builds the responses of the live page, which are the same for every client.

    Args:
        config: the configuration of the run.
        facts, server, trainer, points: return the newest values.
    """

    def __init__(
        self,
        config: Config,
        facts: Callable[[], ProgressFacts],
        server: Callable[[], ServerStatus],
        trainer: Callable[[], TrainerStatus],
        points: Callable[[], tuple[Point, ...]],
    ) -> None:
        self._config, self._facts, self._server = config, facts, server
        self._trainer, self._points = trainer, points
        self._window = TimeWindow()
        self._window.growth({}, {})  # so that the first response covers the whole time since the start
        self._lock = threading.Lock()
        self._status, self._expires_at = b"", 0.0
        self._preview: tuple[ChunkPreview | None, bytes] | None = None
        html = _FILE.read_bytes()
        headers = {"Content-Security-Policy": _content_security_policy(html)}
        self._html = Response("text/html; charset=utf-8", html, headers)

    @property
    def routes(self) -> Routes:
        """The function that builds each response, by path."""
        return {
            "/": lambda: self._html,
            "/status.json": self._status_response,
            "/preview.json": self._preview_response,
        }

    def _status_response(self) -> Response:
        with self._lock:
            now = time.monotonic()
            if now >= self._expires_at:
                server, trainer = self._server(), self._trainer()
                recent = self._window.growth(trainer.phase_seconds, server.actor_phases)
                values = run_status(self._config, self._facts(), server, trainer, self._points(), recent)
                self._status, self._expires_at = _json(values), now + _MAX_AGE_SECONDS
            return Response("application/json", self._status)

    def _preview_response(self) -> Response:
        with self._lock:
            preview = self._trainer().preview
            if self._preview is None or self._preview[0] is not preview:
                body = gzip.compress(_json(preview_values(preview)), compresslevel=1)
                self._preview = (preview, body)
            return Response("application/json", self._preview[1], {"Content-Encoding": "gzip"})


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _content_security_policy(html: bytes) -> str:
    """Return a policy that allows the page's own script and style, by their hashes, and its own learner."""
    rules = ["default-src 'none'", "connect-src 'self'", "img-src data:", "base-uri 'none'"]
    rules += ["form-action 'none'", "frame-ancestors 'none'"]
    for name in (b"script", b"style"):
        found = re.findall(rb"<%b>(.*?)</%b>" % (name, name), html, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in found]
        rules.append(" ".join([f"{name.decode()}-src", *(f"'sha256-{value}'" for value in hashes)]))
    return "; ".join(rules)
