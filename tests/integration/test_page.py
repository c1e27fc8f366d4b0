"""The live page of a run, and how a browser renders it."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import subprocess
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.config import Config
from common.http_server import Response, WebServer
from learner.monitoring.curve import Point
from learner.monitoring.page import Page
from learner.monitoring.progress_line import ProgressFacts
from learner.server.status import ServerStatus, SessionStatus
from learner.training.ppo import UpdateReport
from learner.training.status import TrainerStatus
from tests.support.processes import Run, free_port, wait_until

pytestmark = pytest.mark.integration

SMALL = (
    *("smoke", "--total-steps", "1000000", "--rnd.warmup-steps", "64", "--local-actors", "2"),
    *("--rollout.steps", "16", "--rollout.lanes", "2", "--rollout.batch-lanes", "4"),
)
HOSTILE = "<img src=x onerror=document.title='taken'>"


def fetch(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=10) as response:  # noqa: S310  # our own
        body: bytes = response.read()
        return gzip.decompress(body) if response.headers["Content-Encoding"] == "gzip" else body


def status(address: str) -> Any:
    return json.loads(fetch(f"{address}/status.json"))


@dataclass(frozen=True)
class Rendered:
    """A page after some seconds in a browser."""

    dom: str
    console: list[str]

    def text(self, name: str) -> str:
        """The text of the element with an id."""
        (found,) = re.findall(rf'id="{name}"[^>]*>([^<]*)<', self.dom)
        return str(found)


def render(address: str, directory: Path) -> Rendered:
    """Render `address` in headless Chromium; skips the test without it."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("expected chromium or google-chrome on PATH, got neither")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr")
    silent = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
    work = (f"--user-data-dir={directory / 'browser'}", "--virtual-time-budget=6000", "--dump-dom", address)
    command = [browser, *options, *silent, *work]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Rendered(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line])


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page of a run that has trained."""
    run = Run(tmp_path_factory.mktemp("page"), free_port(), SMALL)
    with run.learner() as learner:
        wait_until(lambda: run.steps_reached(learner, 128), "two updates", 300)
        wait_until(lambda: run.metric("outrider_fleet_actors", learner) == 2, "both actors")
        rows = [json.loads(row) for row in learner.err.read_text().splitlines() if "metrics_served" in row]
        yield f"http://127.0.0.1:{rows[0]['port']}"


def test_a_run_serves_its_page_its_status_a_preview_and_its_metrics(address: str) -> None:
    """The status agrees with the metrics, and the preview comes from an actor."""
    assert b"<title>Outrider</title>" in fetch(f"{address}/")
    value = status(address)
    rows = fetch(f"{address}/metrics").decode().splitlines()
    metrics = {row.split("{run=")[0]: row.split()[-1] for row in rows if row.startswith("outrider_")}
    assert 0 < value["env_steps"] <= float(metrics["outrider_run_env_steps"])
    assert value["total_steps"] == float(metrics["outrider_run_target_steps"])
    assert value["imbalance_steps"] == 0
    assert [row["slot"] for row in value["fleet"]] == [0, 1]
    assert all(row["host"] for row in value["fleet"])
    assert sum(row["steps"] for row in value["fleet"]) > 0
    assert value["curve"][-1][0] == value["env_steps"]
    preview = json.loads(fetch(f"{address}/preview.json"))
    assert len(base64.b64decode(preview["images"])) == len(preview["bonus"]) * 84 * 84
    assert max(preview["bonus"]) > 0


def test_a_browser_shows_the_numbers_of_the_run_without_an_error(address: str, tmp_path: Path) -> None:
    before = status(address)
    shown = render(address, tmp_path)
    after = status(address)
    assert shown.console == []
    assert shown.text("connection") == "live"
    steps = int(shown.text("progress").split(" of ")[0].replace(",", ""))
    assert before["env_steps"] <= steps <= after["env_steps"]
    assert f"of {before['total_steps']:,} steps" in shown.text("progress")
    assert shown.text("imbalance") == "0"
    assert shown.text("actors") == "2 actors for 2 chunks per batch"
    assert shown.dom.count('class="word host"') == 2
    assert re.search(r"step \d+ of 16 · intrinsic reward", shown.text("step"))
    assert shown.dom.count('class="dot bonus"') == 1


def made_up_page(host: str) -> Page:
    """The page of a made-up run, with an actor on `host`."""
    server = ServerStatus(
        actors=1, fleet=(SessionStatus(0, host, 0, 64, True, 0.5),), actor_phases={"env": 1.0}
    )
    trainer = TrainerStatus(version=4, report=UpdateReport(defaultdict(float), 1e-4), lags=Counter({0: 4}))
    facts = ProgressFacts(4_000, 10_000, 16_000, 120.0, 1.5, 0.02, actors=1, lag=0)
    points = (Point(1_000, None, 0.5), Point(3_000, 1.0, 0.1))
    return Page(
        Config(preset="breakout", seed=7), lambda: facts, lambda: server, lambda: trainer, lambda: points
    )


def test_markup_in_a_host_name_is_shown_as_text(tmp_path: Path) -> None:
    """The markup does not run in the browser."""
    server = WebServer("127.0.0.1", 0, made_up_page(HOSTILE).routes)
    try:
        shown = render(f"http://127.0.0.1:{server.port}/", tmp_path)
    finally:
        server.close()
    assert shown.console == []
    assert "&lt;img src=x" in shown.dom and "<img" not in shown.dom
    assert "<title>40 % breakout" in shown.dom
    assert "seed 7" in shown.text("run")


def test_a_learner_that_stops_answering_is_shown_as_silent(tmp_path: Path) -> None:
    """The last figures remain on the page, below a line with the time since the last response."""
    routes, requests = dict(made_up_page("host").routes), []
    respond = routes["/status.json"]

    def respond_once() -> Response:
        requests.append(1)
        if len(requests) > 1:
            raise ConnectionResetError
        return respond()

    server = WebServer("127.0.0.1", 0, routes | {"/status.json": respond_once})
    try:
        shown = render(f"http://127.0.0.1:{server.port}/", tmp_path)
    finally:
        server.close()
    assert len(requests) > 1
    assert shown.text("connection") == "no response"
    assert "has not responded for" in shown.text("disconnected")
    assert shown.text("progress") == "4,000 of 10,000 steps (40 %)"
