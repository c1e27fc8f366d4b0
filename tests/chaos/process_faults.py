"""Faults of processes: killed, stopped, stalled and terminated actors and learners.

The arguments of a scenario are the number and the length of its faults, so it has a short and a long form. It
compares the ledger with independent counts and returns figures. For a figure NAME that depends on the machine
it also returns NAME_bound, which only the long form checks.
"""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

import psutil

from tests.support.fault_harness import (
    BACK_SECONDS,
    BATCH_LANES,
    CHUNK_STEPS,
    LANES,
    START_SECONDS,
    STEPS,
    FaultHarness,
    Figures,
    frozen,
    stop,
)
from tests.support.processes import kill, wait_until


def killed_actors(directory: Path, kills: int, seed: int = 0) -> Figures:
    """B1: kill random actors that make steps, at random moments."""
    harness, rng, killed = FaultHarness(directory, seed), random.Random(seed), set[int]()

    def stepping() -> list[int]:
        made = harness.run.counted_by_process()
        return [child.pid for child in learner.actors() if made.get(child.pid) and child.pid not in killed]

    with harness.learner("--local-actors", "4") as learner:
        while len(killed) < kills:
            wait_until(lambda: bool(stepping()), "an actor that makes steps", START_SECONDS)
            time.sleep(rng.uniform(0.0, 2.0))
            pid = rng.choice(stepping())
            kill(pid)
            killed.add(pid)
        back = harness.wait_updates(20)
        stop(learner)
    # An actor that is killed between an emulator step and its count loses at most one step per lane.
    return {"kills": kills, "back_seconds": back, **harness.figures(unreported_steps=LANES * kills)}


def killed_learners(directory: Path, kills: int, seed: int = 0) -> Figures:
    """B2: kill the learner at random moments, every second time while it writes a checkpoint.

    It must train again within `BACK_SECONDS`, including the start of Python and PyTorch.
    """
    harness = FaultHarness(directory, seed, environment={"CHAOS_FSYNC_SECONDS": "0.1"})
    rng, downs, writing = random.Random(seed), [], 0
    with harness.actor(procs=2) as actors:
        for number in range(kills + 1):
            started = time.monotonic()
            with harness.learner("--resume") as learner:
                harness.wait_generation()
                downs.append(time.monotonic() - started)
                if number == kills:
                    stop(actors)
                    stop(learner)
                    break
                if number % 2:
                    wait_until(
                        lambda: any((harness.run.path / "checkpoints").glob("*.tmp")),
                        "a checkpoint being written",
                        START_SECONDS,
                    )
                    writing += 1
                else:
                    time.sleep(rng.uniform(0.0, 8.0))
                kill(learner.pid)
                learner.process.wait()
    figures = harness.figures()
    rolled_back = len(harness.updates()) - len(harness.timeline())
    return {
        "kills": kills,
        "kills_while_writing_a_checkpoint": writing,
        "resumed": len(downs) - 1,
        "back_seconds_max": max(downs[1:]),
        "back_seconds_max_bound": BACK_SECONDS,
        "back_seconds_median": statistics.median(downs[1:]),
        "updates_rolled_back": rolled_back,
        **figures,
    }


def frozen_processes(directory: Path, learner_seconds: float, actor_seconds: float) -> Figures:
    """B4: a stopped learner loses no session; a stopped actor delays updates within the straggler bound."""
    harness = FaultHarness(directory)
    with harness.learner() as learner, harness.actor(procs=2) as actors, harness.actor() as third:
        harness.wait_steps(actors, third, more=4 * CHUNK_STEPS)
        with frozen(psutil.Process(learner.pid)):
            time.sleep(learner_seconds)
        learner_back = harness.wait_updates(1)
        sessions = harness.run.metric('outrider_fleet_sessions_total{event="join"}', learner)
        harness.wait_updates(100)
        since = len(harness.updates())
        with frozen(psutil.Process(third.pid)):
            time.sleep(actor_seconds)
            gap, bound = harness.longest_gap(since)
        actor_back = harness.wait_steps(third)
        stop(third)
        stop(actors)
        stop(learner)
    figures = harness.figures()
    assert sessions == 3, "expected the learner to extend every lease by its own stop"
    return {
        "learner_stopped_seconds": learner_seconds,
        "sessions_lost": sessions - 3,
        "actor_stopped_seconds": actor_seconds,
        "learner_back_seconds": learner_back,
        "actor_back_seconds": actor_back,
        "actor_back_seconds_bound": BACK_SECONDS,
        "stale_steps": figures["dropped_steps"].get("stale", 0),
        "stale_steps_bound": 10 * CHUNK_STEPS,  # actors of one host share fetched weights
        "update_gap_seconds_max": gap,
        "update_gap_seconds_max_bound": bound,
        **figures,
    }


def slow_learner(directory: Path, update_seconds: float, updates: int, max_lag: int) -> Figures:
    """B7: updates take long. Actors wait for credit, no session ends, and few steps are in flight."""
    harness = FaultHarness(directory, environment={"CHAOS_UPDATE_SECONDS": str(update_seconds)})
    with harness.learner("--max-lag", str(max_lag)) as learner, harness.actor(procs=3) as actors:
        harness.wait_updates(updates, 60 + 2 * updates * update_seconds)
        waiting = harness.run.metric("outrider_learner_steps_in_flight", learner)
        sessions = harness.run.metric('outrider_fleet_sessions_total{event="join"}', learner)
        stop(actors)
        stop(learner, 40 + 2 * update_seconds)
    summary = harness.run.summary()
    assert sessions == 3
    assert waiting <= (max_lag + 1) * BATCH_LANES * STEPS + 3 * CHUNK_STEPS
    assert int(str(summary["max_lag_seen"])) <= max_lag
    return {
        "update_seconds": update_seconds,
        "in_flight_steps_seen": waiting,
        "max_lag_seen": summary["max_lag_seen"],
        **harness.figures(),
    }


def wedged_learner(directory: Path, limit_seconds: float) -> Figures:
    """B9: the network thread stalls for longer than its limit; the watchdog names it and ends the process."""
    harness = FaultHarness(directory, environment={"CHAOS_WEDGE_SECONDS": str(limit_seconds)})
    with harness.actor(procs=2) as actors:
        with harness.run.learner() as learner:
            wait_until(lambda: len(harness.updates()) >= 20, "20 updates", START_SECONDS)
            start = time.monotonic()
            code = learner.finish(limit_seconds + 60)
            ended = time.monotonic() - start
            log = learner.err.read_text()
        assert code == 70
        assert '"thread": "network"' in log and "_wedged" in log
        del harness.run.environment["CHAOS_WEDGE_SECONDS"]
        with harness.learner("--resume") as learner:
            harness.wait_updates(20)
            stop(actors)
            stop(learner)
    return {
        "limit_seconds": limit_seconds,
        "ended_seconds": ended,
        "ended_seconds_bound": limit_seconds + 10,
        "exit_code": code,
        **harness.figures(),
    }


def terminated(directory: Path) -> Figures:
    """B12: SIGTERM ends remote actors, then the learner and its local actor; all exit with 75."""
    harness = FaultHarness(directory)
    with harness.learner("--local-actors", "1") as learner, harness.actor(procs=2) as actors:
        harness.wait_steps(actors, more=4 * CHUNK_STEPS)
        harness.wait_updates(20)
        start = time.monotonic()
        stop(actors)
        actors_seconds = time.monotonic() - start
        harness.wait_updates(5)
        start = time.monotonic()
        stop(learner)
        learner_seconds = time.monotonic() - start
    figures = harness.figures()
    assert "actor_lost" not in figures["dropped_steps"], figures
    return {"actors_exit_seconds": actors_seconds, "learner_exit_seconds": learner_seconds, **figures}
