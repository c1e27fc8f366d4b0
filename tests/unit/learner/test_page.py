"""The responses of the live page, from statuses that a test writes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from common.config import Config, RNDConfig
from common.protocol.chunk import Chunk
from common.protocol.messages import Phase
from common.spaces import Spaces
from learner.interface import DecodedChunk
from learner.monitoring.bottleneck import CAUSES
from learner.monitoring.curve import Point
from learner.monitoring.page import Page, run_status
from learner.monitoring.progress_line import ProgressFacts
from learner.server.ledger import Totals
from learner.server.status import ServerStatus, SessionStatus
from learner.training.ppo import UpdateReport
from learner.training.status import PHASES, ChunkPreview, TrainerStatus

ROOT = Path(__file__).parents[3]
HTML = (ROOT / "learner" / "monitoring" / "page.html").read_text()
IMAGES, VECTORS = Spaces((84, 84), 4, 18), Spaces((3,), 1, 4)
CONFIG = Config()
LEARNER_SECONDS = dict.fromkeys(PHASES, 0.0) | {"wait": 9.0, "train": 1.0}
ACTOR_SECONDS = dict.fromkeys(get_args(Phase), 0.0) | {"env": 8.0, "credit_wait": 2.0}
FACTS = ProgressFacts(4_000, 10_000, 16_000, 120.0, 1.5, 0.02, actors=2, lag=0)
POINTS = (Point(1_000, None, 0.5), Point(3_000, 1.0, 0.1))
SERVER = ServerStatus(
    totals=Totals(4_200, 4_000, {"warmup": 64, "old_generation": 0}, 100),
    actors=2,
    actor_phases=ACTOR_SECONDS,
)
TRAINER = TrainerStatus(
    version=4,
    report=UpdateReport(defaultdict(float), 1e-4),
    lags=Counter({1: 2, 0: 6}),
    phase_seconds=LEARNER_SECONDS,
)
MakeChunk = Callable[..., Chunk]


def decoded(
    facts: ProgressFacts = FACTS,
    server: ServerStatus = SERVER,
    trainer: TrainerStatus = TRAINER,
    config: Config = CONFIG,
) -> Any:
    """Return the status as a client decodes it."""
    values = run_status(config, facts, server, trainer, POINTS, (trainer.phase_seconds, server.actor_phases))
    return json.loads(json.dumps(values, allow_nan=False))


def page(trainer: TrainerStatus = TRAINER, server: Callable[[], ServerStatus] = lambda: SERVER) -> Page:
    return Page(CONFIG, lambda: FACTS, server, lambda: trainer, lambda: POINTS)


def decoded_chunk(chunk: Chunk) -> DecodedChunk:
    return DecodedChunk(bytes(16), 4, 3, 0, 0, 4, True, chunk)


def test_the_bottleneck_is_the_cause_with_the_largest_share() -> None:
    """The page and the dashboards show the same sentence."""
    assert (decoded()["cause"], decoded()["bottleneck"]) == ("collection", CAUSES["collection"])
    one = decoded(server=replace(SERVER, actors=1))
    assert (one["cause"], one["batch_chunks"]) == ("actors", CONFIG.rollout.batch_chunks)
    assert decoded(server=replace(SERVER, actors=0))["bottleneck"] == CAUSES["no_actors"]


def test_shares_of_time_add_up_to_the_whole() -> None:
    for side, phases in (("learner_phases", LEARNER_SECONDS), ("actor_phases", ACTOR_SECONDS)):
        assert sum(decoded()[side].values()) == pytest.approx(1.0)
        assert decoded()[side].keys() == phases.keys()


def test_the_remaining_time_is_that_of_the_remaining_steps_at_this_speed() -> None:
    assert decoded()["remaining_seconds"] * 120.0 == pytest.approx(6_000)
    assert decoded(facts=replace(FACTS, steps_per_second=0.0))["remaining_seconds"] is None


def test_before_the_first_update_values_are_null_or_empty() -> None:
    fresh = ProgressFacts(0, 10_000, 0, 0.0, None, None, 0, 0, warmup="1/8 chunks of random actions")
    value = decoded(fresh, ServerStatus(), TrainerStatus(phase_seconds=dict.fromkeys(PHASES, 0.0)))
    assert value["curve"] == [] and value["fleet"] == []
    assert value["learner_phases"] == {} and value["actor_phases"] == {}
    for name in ("return_mean", "bonus", "preview", "remaining_seconds", "update_age_seconds"):
        assert value[name] is None


def test_the_curve_ends_at_the_present_and_lag_is_counted_by_chunk() -> None:
    assert decoded()["curve"] == [[1_000, None, 0.5], [3_000, 1.0, 0.1], [4_000, 1.5, 0.02]]
    assert decoded()["lags"] == {"0": 6, "1": 2}


def test_drops_are_listed_by_reason_and_an_imbalance_has_a_sign() -> None:
    assert decoded()["dropped_steps"] == {"warmup": 64}
    assert decoded()["imbalance_steps"] == 36
    assert decoded(server=replace(SERVER, totals=Totals(10, 12, {}, 0)))["imbalance_steps"] == -2


def test_sessions_are_listed_by_slot() -> None:
    fleet = (SessionStatus(1, "b", 0, 64, True, 0.5), SessionStatus(0, "a", 2, 128, False, 7.0))
    rows = decoded(server=replace(SERVER, fleet=fleet))["fleet"]
    assert [row["slot"] for row in rows] == [0, 1]
    assert rows[0] == {
        "slot": 0, "host": "a", "incarnation": 2, "steps": 128, "collecting": False, "silent_seconds": 7.0,
        "machine": "no key",
    }  # fmt: skip


def test_the_status_tells_whether_the_run_has_a_bonus() -> None:
    assert decoded()["has_bonus"] is True
    assert decoded(config=Config(rnd=RNDConfig(enabled=False)))["has_bonus"] is False


def test_a_preview_is_the_first_lane_after_each_step_and_its_bonus(make_chunk: MakeChunk) -> None:
    """Row S + t is the observation after step t, for which the bonus is computed; the arrays are copies."""
    chunk = make_chunk(5, 2, IMAGES, 0)
    preview = ChunkPreview.of(decoded_chunk(chunk), IMAGES)
    response = page(replace(TRAINER, preview=preview)).routes["/preview.json"]()
    assert response.headers == {"Content-Encoding": "gzip"}
    value = json.loads(gzip.decompress(response.body))
    images = np.frombuffer(base64.b64decode(value["images"]), np.uint8).reshape(5, 84, 84)
    np.testing.assert_array_equal(images, chunk.observation[4:, 0])
    np.testing.assert_allclose(value["bonus"], chunk.bonus[:, 0])
    np.testing.assert_array_equal(value["done"], chunk.done[:, 0])
    assert (value["slot"], value["version"]) == (3, 4)
    arrays = (preview.images, preview.bonus, preview.reward, preview.done)
    assert all(array is not None and array.base is None for array in arrays)


def test_a_task_on_vectors_has_a_preview_without_images(make_chunk: MakeChunk) -> None:
    preview = ChunkPreview.of(decoded_chunk(make_chunk(5, 2, VECTORS, 0)), VECTORS)
    response = page(replace(TRAINER, preview=preview)).routes["/preview.json"]()
    value = json.loads(gzip.decompress(response.body))
    assert value["images"] is None
    assert len(value["bonus"]) == 5


def test_many_requests_cost_as_much_as_one(make_chunk: MakeChunk) -> None:
    """The status is built once per second, and a preview is compressed once."""
    built_at: list[float] = []

    def server() -> ServerStatus:
        built_at.append(time.monotonic())
        return SERVER

    live = page(
        replace(TRAINER, preview=ChunkPreview.of(decoded_chunk(make_chunk(5, 2, IMAGES, 0)), IMAGES)), server
    )
    assert not built_at  # only a request builds it
    bodies = [live.routes["/preview.json"]().body for _ in range(9)]
    assert all(body is bodies[0] for body in bodies)
    for _ in range(100):
        live.routes["/status.json"]()
    assert len(built_at) <= 1 + (time.monotonic() - built_at[0])


def test_the_first_response_covers_all_time_since_the_start() -> None:
    """There is no earlier response at which the time of a share could begin."""
    value = json.loads(page().routes["/status.json"]().body)
    assert value["learner_phases"]["wait"] == pytest.approx(0.9)


def test_the_content_security_policy_allows_only_the_page_s_own_script_and_style() -> None:
    """It lists one script and one style by their hashes; the page has nothing inline and no other address."""
    policy = page().routes["/"]().headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for name in ("script", "style"):
        (text,) = re.findall(f"<{name}>(.*?)</{name}>", HTML, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert not re.search(r"<[^>]*\s(style|on\w+)=", HTML)
    assert set(re.findall(r"\bhttps?:[^\s'\"]*", HTML)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|Function\(", HTML)


def test_the_page_names_every_phase() -> None:
    (words,) = re.findall(r"const PHASES = \{(.*?)\};", HTML, re.DOTALL)
    assert set(re.findall(r"(\w+): \[", words)) == {*PHASES, *get_args(Phase)}


def test_a_wheel_carries_every_file_that_is_not_a_module() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for package, names in project["tool"]["setuptools"]["package-data"].items():
        files = {
            path.name
            for path in (ROOT / package.replace(".", "/")).iterdir()
            if path.is_file() and path.suffix != ".py"
        }
        assert set(names) == files
