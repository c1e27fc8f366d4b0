"""Fake actors speak the protocol, and their count of steps agrees with the learner's ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.config import Config, EnvConfig, RNDConfig, RolloutConfig
from tests.bench.intake import Intake
from tests.support.fake_fleet import FakeFleet, FleetReport, Recording, record
from tests.support.processes import wait_until

ACTORS, LANES = 5, 4
ROLLOUT = RolloutConfig(steps=8, lanes=1, batch_lanes=LANES)
ENV = EnvConfig(id="pong")
CONFIG = Config(total_steps=1 << 40, max_lag=1, env=ENV, rollout=ROLLOUT, rnd=RNDConfig(warmup_steps=0))


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    return record(ENV, ROLLOUT, 3)


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/learner"


@pytest.fixture
def intake(endpoint: str) -> Iterator[Intake]:
    with Intake(CONFIG, endpoint) as intake:
        yield intake


def play(fleet: FakeFleet, intake: Intake, chunks: int, opens: bool = True) -> None:
    """Run the fleet until so many chunks are settled; credit is given once every actor has joined."""
    target = intake.chunks + chunks
    wait_until(
        lambda: all(actor.session.joined for actor in fleet.actors), "sessions", between=fleet.poll_once
    )
    if opens:
        intake.open()
    wait_until(lambda: intake.chunks >= target, f"{chunks} chunks", between=fleet.poll_once)


def test_the_ledger_has_every_step_of_every_fake_actor(
    endpoint: str, intake: Intake, recordings: list[Recording]
) -> None:
    with FakeFleet(endpoint, ACTORS, recordings) as fleet:
        play(fleet, intake, 40)
        report = fleet.leave()
    totals = intake.close_ledger()
    accounts = json.loads(json.loads(intake.server.accounting())["ledger"])["accounts"]
    assert {sid: produced for sid, (produced, *_) in accounts.items()} == report.made
    assert totals.imbalance == totals.in_flight == 0
    assert totals.trained >= 40 * ROLLOUT.chunk_steps
    assert report.left == ACTORS and report.reconnects == 0
    chunks = sum(report.made.values()) // ROLLOUT.chunk_steps
    assert chunks - ACTORS <= len(report.ack_seconds) <= chunks  # ByeAck may answer a session's last one


def test_an_actor_that_reconnects_sends_again_and_nothing_is_counted_twice(
    endpoint: str, intake: Intake, recordings: list[Recording]
) -> None:
    with FakeFleet(endpoint, ACTORS, recordings) as fleet:
        play(fleet, intake, 12)
        for actor in fleet.actors[:2]:
            actor.session.reconnect()
        play(fleet, intake, 12, opens=False)
        report = fleet.leave()
    totals = intake.close_ledger()
    assert report.reconnects == 2 and len(report.made) == ACTORS
    assert totals.produced == sum(report.made.values())
    assert totals.imbalance == 0


def test_a_rate_is_not_exceeded(endpoint: str, recordings: list[Recording]) -> None:
    rate, chunks = 40.0, 60
    with Intake(CONFIG, endpoint, rate) as intake, FakeFleet(endpoint, ACTORS, recordings) as fleet:
        start = time.monotonic()
        play(fleet, intake, chunks)
        seconds = time.monotonic() - start
        fleet.leave()
    waited = chunks - 2 * ROLLOUT.batch_chunks  # one batch may use the allowance that a stall left
    assert seconds > waited / rate


def test_reports_of_several_processes_add_up() -> None:
    one, other = FleetReport({"a": 3}, [0.1], 1, 0), FleetReport({"b": 4}, [0.2], 2, 5)
    assert one + other == FleetReport({"a": 3, "b": 4}, [0.1, 0.2], 3, 5)
    assert sum((one, other), FleetReport()) == one + other
