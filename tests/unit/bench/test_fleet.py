"""Fake actors speak the protocol, and their own count of steps agrees with the learner's books."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.config import Config, EnvConfig, RNDConfig, RolloutConfig
from tests.bench.intake import Intake
from tests.support.fake_fleet import FakeFleet, Recording, Report, record
from tests.support.processes import PATIENCE_SECONDS

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
    """Until so many chunks were settled; the first credit is given once everybody has a seat."""
    goal, deadline = intake.chunks + chunks, time.monotonic() + PATIENCE_SECONDS
    while not all(actor.session.joined for actor in fleet.actors):
        assert time.monotonic() < deadline
        fleet.turn()
    if opens:
        intake.open()
    while intake.chunks < goal:
        assert time.monotonic() < deadline
        fleet.turn()


def test_every_step_of_every_fake_actor_is_in_the_books(
    endpoint: str, intake: Intake, recordings: list[Recording]
) -> None:
    with FakeFleet(endpoint, ACTORS, recordings) as fleet:
        play(fleet, intake, 40)
        report = fleet.leave()
    totals = intake.close_books()
    accounts = intake.admission.ledger.accounts
    assert {sid.hex(): account.produced for sid, account in accounts.items()} == report.made
    assert totals.imbalance == totals.in_flight == 0
    assert totals.trained >= 40 * ROLLOUT.chunk_steps
    assert report.left == ACTORS and report.reconnects == 0
    chunks = sum(report.made.values()) // ROLLOUT.chunk_steps
    assert chunks - ACTORS <= len(report.ack_seconds) <= chunks  # ByeAck may answer a session's last one


def test_who_reconnects_sends_again_and_nothing_is_counted_twice(
    endpoint: str, intake: Intake, recordings: list[Recording]
) -> None:
    with FakeFleet(endpoint, ACTORS, recordings) as fleet:
        play(fleet, intake, 12)
        for actor in fleet.actors[:2]:
            actor.session.reconnect()
        play(fleet, intake, 12, opens=False)
        report = fleet.leave()
    totals = intake.close_books()
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
    waited = chunks - 2 * ROLLOUT.batch_chunks  # what a stall left unused counts for one batch
    assert seconds > waited / rate


def test_reports_of_several_processes_add_up() -> None:
    one, other = Report({"a": 3}, [0.1], 1, 0), Report({"b": 4}, [0.2], 2, 5)
    assert one + other == Report({"a": 3, "b": 4}, [0.1, 0.2], 3, 5)
    assert sum((one, other), Report()) == one + other
