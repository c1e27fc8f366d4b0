"""The faults, one function each: does it, compares both sets of books, returns the figures.

Each takes how often and how long, so that continuous integration has a short form and a night a long one.
A figure that depends on the machine has a bound beside it, NAME_bound, which only the long form demands.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import resource
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from learner.training import checkpoint
from learner.training.checkpoint import CheckpointError
from tests.support import small_disk
from tests.support.fault_harness import BATCH_LANES, CHUNK_STEPS, LANES, STEPS, Field, frozen, stop, until
from tests.support.processes import Command, free_port, kill
from tests.support.proxy import PARTITION, FaultProxy, Weather, schedule
from tests.support.replayer import Replayer

Figures = dict[str, Any]
_DUPLICATES = "outrider_wire_duplicate_chunks_total"
PATIENCE_SECONDS = 180.0  # for what has to start first, on a busy machine
BACK_SECONDS = 15.0
STRAGGLER_SECONDS = 2.0  # the least of the bound; three medians of these chunks are far below it


def killed_actors(directory: Path, kills: int, seed: int = 0) -> Figures:
    """B1: kill -9 of a random one of the actors that play, at whatever it is doing."""
    field, chance, killed = Field(directory, seed), random.Random(seed), set[int]()

    def playing() -> list[int]:
        made = field.run.counted_by_process()
        return [child.pid for child in learner.actors() if made.get(child.pid) and child.pid not in killed]

    with field.learner("--local-actors", "4") as learner:
        while len(killed) < kills:
            until(lambda: bool(playing()), PATIENCE_SECONDS, "an actor that plays")
            time.sleep(chance.uniform(0.0, 2.0))
            victim = chance.choice(playing())
            kill(victim)
            killed.add(victim)
        back = field.wait_updates(20)
        stop(learner)
    # Between the step of the emulator and its actor's note of it lie at most as many steps as lanes.
    return {"kills": kills, "back_seconds": back, **field.figures(unreported_steps=LANES * kills)}


def killed_learners(directory: Path, kills: int, seed: int = 0) -> Figures:
    """B2: kill -9 of the learner at random moments, every second one while it writes a checkpoint.

    It trains again after `BACK_SECONDS`, the start of Python and torch included.
    """
    field = Field(directory, seed, environment={"CHAOS_FSYNC_SECONDS": "0.1"})
    chance, downs, writing = random.Random(seed), [], 0
    with field.actor(procs=2) as actors:
        for number in range(kills + 1):
            started = time.monotonic()
            with field.learner("--resume") as learner:
                epochs = len({row["generation"] for row in field.updates()})
                until(
                    lambda e=epochs: len({row["generation"] for row in field.updates()}) > e,  # type: ignore[misc]
                    PATIENCE_SECONDS,
                    "updates",
                )
                downs.append(time.monotonic() - started)
                if number == kills:
                    stop(actors)
                    stop(learner)
                    break
                if number % 2:
                    partial = field.run.path / "checkpoints"
                    until(
                        lambda at=partial: any(at.glob("*.tmp")),  # type: ignore[misc]
                        PATIENCE_SECONDS,
                        "a checkpoint being written",
                    )
                    writing += 1
                else:
                    time.sleep(chance.uniform(0.0, 8.0))
                kill(learner.pid)
                learner.process.wait()
    figures = field.figures()
    rolled_back = len(field.updates()) - len(field.timeline())
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


def _longest_gap(field: Field, since: int) -> tuple[float, float]:
    """The longest time between two updates after update number `since`, and its bound, in seconds.

    A straggler's place is offered to another one after that bound; chunk and update take time as ever.
    """
    times = [row["time"] for row in field.updates()[since:]]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return max(gaps), STRAGGLER_SECONDS + max(1.0, 10 * statistics.median(gaps))


def _plays(field: Field, actor: Command, made: int) -> bool:
    """Whether an actor plays beyond what it had credit for when it had made so many steps."""
    return field.made_by(actor) > made + 2 * CHUNK_STEPS


def partitions(directory: Path, count: int, seconds: tuple[float, float], seed: int = 0) -> Figures:
    """B3 and B4: nothing passes, or nothing in one direction, or the learner's end is gone.

    Two actors behind one proxy each are cut off in turn, a third one is not: the learner goes on.
    """
    field = Field(directory, seed)
    faults = schedule(seed, count, seconds, (PARTITION, Weather(hold_up=True), Weather(hold_down=True), None))
    ports = [free_port() for _ in range(2)]
    backs, gaps = [], []
    with contextlib.ExitStack() as stack:
        learner = stack.enter_context(field.learner())
        proxies = [stack.enter_context(FaultProxy(port, field.run.port, seed)) for port in ports]
        cut = [stack.enter_context(field.actor(port)) for port in ports]
        free = stack.enter_context(field.actor())
        until(
            lambda: min(map(field.made_by, (*cut, free))) > 4 * CHUNK_STEPS, PATIENCE_SECONDS, "all to play"
        )
        for number, fault in enumerate(faults):
            proxy, actor, since = proxies[number % 2], cut[number % 2], len(field.updates())
            time.sleep(fault.pause_seconds)
            if fault.weather is None:
                proxy.half_open()
            else:
                with proxy.during(fault.weather):
                    time.sleep(fault.seconds)
            made = field.made_by(actor)
            backs.append(
                until(
                    partial(_plays, field, actor, made),
                    PATIENCE_SECONDS,
                    f"an actor back after {fault}",
                )
            )
            gaps.append(_longest_gap(field, since))
        for actor in (*cut, free):
            stop(actor)
        stop(learner)
    gap, bound = max(gaps, key=lambda gap: gap[0] - gap[1])
    return {
        "partitions": count,
        "seed": seed,
        "partition_seconds": list(seconds),
        "back_seconds_max": max(backs),
        "back_seconds_max_bound": BACK_SECONDS,
        "back_seconds_median": statistics.median(backs),
        "update_gap_seconds_max": gap,
        "update_gap_seconds_max_bound": bound,
        **field.figures(),
    }


def frozen_processes(directory: Path, learner_seconds: float, actor_seconds: float) -> Figures:
    """B4: SIGSTOP of the learner costs no session, one of an actor no more than the straggler bound."""
    field = Field(directory)
    with field.learner() as learner, field.actor(procs=2) as actors, field.actor() as third:
        until(
            lambda: min(map(field.made_by, (actors, third))) > 4 * CHUNK_STEPS,
            PATIENCE_SECONDS,
            "all to play",
        )
        with frozen(psutil.Process(learner.pid)):
            time.sleep(learner_seconds)
        learner_back = field.wait_updates(1)
        sessions = field.run.metric('outrider_fleet_sessions_total{event="join"}', learner)
        field.wait_updates(100)
        since = len(field.updates())
        with frozen(psutil.Process(third.pid)):
            time.sleep(actor_seconds)
            gap, bound = _longest_gap(field, since)
        made = field.made_by(third)
        actor_back = until(
            lambda: field.made_by(third) > made + 2 * CHUNK_STEPS, PATIENCE_SECONDS, "the actor back"
        )
        stop(third)
        stop(actors)
        stop(learner)
    figures = field.figures()
    assert sessions == 3, "a session was given up while the learner itself stood still"
    return {
        "learner_stopped_seconds": learner_seconds,
        "sessions_given_up_meanwhile": sessions - 3,
        "actor_stopped_seconds": actor_seconds,
        "learner_back_seconds": learner_back,
        "actor_back_seconds": actor_back,
        "actor_back_seconds_bound": BACK_SECONDS,
        "stale_steps": figures["dropped_steps"].get("stale", 0),
        "stale_steps_bound": 10 * CHUNK_STEPS,  # actors of one host play with what a sibling fetched
        "update_gap_seconds_max": gap,
        "update_gap_seconds_max_bound": bound,
        **figures,
    }


def broken_connections(directory: Path, cut_bytes: int, seconds: float, seed: int = 0) -> Figures:
    """B5: every connection breaks after about so many bytes, with a delay on top."""
    field, port = Field(directory, seed), free_port()
    with (
        FaultProxy(port, field.run.port, seed) as proxy,
        field.learner() as learner,
        field.actor(port) as first,
        field.actor(port) as second,
    ):
        field.wait_updates(20)
        with proxy.during(Weather(cut_bytes=cut_bytes, delay_seconds=0.002)):
            proxy.half_open()  # connections older than the weather
            time.sleep(seconds)
            until(lambda: proxy.cuts >= 3, PATIENCE_SECONDS, "three cuts")
            field.wait_updates(5)
        field.wait_updates(20)
        duplicates = field.run.metric(_DUPLICATES, learner)
        for actor in (first, second):
            stop(actor)
        stop(learner)
    return {"cuts": proxy.cuts, "chunks_sent_again_and_known": duplicates, **field.figures()}


def damaged_bytes(directory: Path, seconds: float, seed: int = 0) -> Figures:
    """Bits turned over and blocks left out: what is not a message is refused, the rest is booked."""
    field, port = Field(directory, seed), free_port()
    with (
        FaultProxy(port, field.run.port, seed) as proxy,
        field.learner() as learner,
        field.actor() as sound,
        field.actor(port),
    ):
        field.wait_updates(20)
        with proxy.during(Weather(flip=0.02, drop=0.01)):
            time.sleep(seconds)
            field.wait_updates(5)
        stop(sound)
        stop(learner)
        imbalances = sorted(field.sampler.imbalances)
    assert imbalances == [0.0]
    assert proxy.flips + proxy.drops > 0
    kept = field.timeline()
    seen = sum(last - first + 1 for row in kept for _, first, last, _ in row["lanes"])
    trained = field.run.summary()["trained_steps"]
    assert seen == trained == len(kept) * STEPS * BATCH_LANES
    return {
        "bits_turned": proxy.flips,
        "blocks_dropped": proxy.drops,
        "trained_steps": trained,
        "imbalance_steps": 0,
    }


def slow_actor(directory: Path, seconds: float, bytes_per_second: float = 7_000.0) -> Figures:
    """B6: one actor of three at 56 kbit/s delays an update by the straggler bound at most."""
    field, port = Field(directory), free_port()
    with (
        FaultProxy(port, field.run.port) as proxy,
        field.learner() as learner,
        field.actor(procs=2) as fast,
        field.actor(port) as slow,
    ):
        until(
            lambda: min(map(field.made_by, (fast, slow))) > 4 * CHUNK_STEPS, PATIENCE_SECONDS, "all to play"
        )
        before, start = len(field.updates()), time.monotonic()
        time.sleep(seconds / 2)
        usual = (len(field.updates()) - before) / (time.monotonic() - start)
        since, start = len(field.updates()), time.monotonic()
        with proxy.during(Weather(bytes_per_second=bytes_per_second)):
            time.sleep(seconds)
            rate = (len(field.updates()) - since) / (time.monotonic() - start)
            gap, bound = _longest_gap(field, since)
        for actor in (slow, fast):
            stop(actor)
        stop(learner)
    return {
        "updates_per_second": usual,
        "updates_per_second_with_a_slow_actor": rate,
        "update_gap_seconds_max": gap,
        "update_gap_seconds_max_bound": bound,
        **field.figures(),
    }


def slow_learner(directory: Path, update_seconds: float, updates: int, max_lag: int) -> Figures:
    """B7: updates that take long. Credit stops the actors; nobody is given up; memory stays."""
    field = Field(directory, environment={"CHAOS_UPDATE_SECONDS": str(update_seconds)})
    with field.learner("--max-lag", str(max_lag)) as learner, field.actor(procs=3) as actors:
        field.wait_updates(updates, 60 + 2 * updates * update_seconds)
        waiting = field.run.metric("outrider_learner_steps_in_flight", learner)
        sessions = field.run.metric('outrider_fleet_sessions_total{event="join"}', learner)
        stop(actors)
        stop(learner, 40 + 2 * update_seconds)
    summary = field.run.summary()
    assert sessions == 3
    assert waiting <= (max_lag + 1) * BATCH_LANES * STEPS + 3 * CHUNK_STEPS
    assert int(str(summary["max_lag_seen"])) <= max_lag
    return {
        "update_seconds": update_seconds,
        "in_flight_steps_seen": waiting,
        "max_lag_seen": summary["max_lag_seen"],
        **field.figures(),
    }


def wedged_learner(directory: Path, patience_seconds: float) -> Figures:
    """B9: the network thread hangs in the middle of a run; the watchdog says so and ends the process."""
    field = Field(directory, environment={"CHAOS_WEDGE_SECONDS": str(patience_seconds)})
    with field.actor(procs=2) as actors:
        with field.run.learner() as learner:
            until(lambda: len(field.updates()) >= 20, PATIENCE_SECONDS, "20 updates")
            start = time.monotonic()
            code = learner.finish(patience_seconds + 60)
            ended = time.monotonic() - start
            said = learner.err.read_text()
        assert code == 70
        assert '"thread": "network"' in said and "_wedged" in said
        del field.run.environment["CHAOS_WEDGE_SECONDS"]
        with field.learner("--resume") as learner:
            field.wait_updates(20)
            stop(actors)
            stop(learner)
    return {
        "patience_seconds": patience_seconds,
        "ended_seconds": ended,
        "ended_seconds_bound": patience_seconds + 10,
        "exit_code": code,
        **field.figures(),
    }


@contextlib.contextmanager
def _no_room(learner: Command, run_dir: Path) -> Iterator[None]:
    """Nothing more fits onto the disk of the run directory."""
    filler = run_dir / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def _no_longer_files(learner: Command, run_dir: Path) -> Iterator[None]:
    """No file grows beyond a few kilobytes; where users may not mount a disk of their own."""
    process, unlimited = psutil.Process(learner.pid), resource.RLIM_INFINITY
    process.rlimit(resource.RLIMIT_FSIZE, (8_192, unlimited))
    try:
        yield
    finally:
        process.rlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))


def full_disk(directory: Path, seconds: float) -> Figures:
    """B10: the disk is full: training goes on, old checkpoints stay, a metric says so; then there is room."""
    field = Field(directory)
    real = small_disk.possible(directory / "mount")
    full = _no_room if real else _no_longer_files
    field.run.module = "tests.support.small_disk" if real else field.run.module

    def saved() -> list[str]:
        return sorted(path.name for path in checkpoints.iterdir()) if checkpoints.exists() else []

    with field.learner() as learner, field.actor(procs=2) as actors:
        root = Path(f"/proc/{learner.pid}/root" if real else "/")
        checkpoints = root / field.run.path.relative_to("/") / "checkpoints"
        field.wait_updates(5)
        until(lambda: len(saved()) >= 1, PATIENCE_SECONDS, "a checkpoint")
        failed = "outrider_checkpoint_failures_total"
        with full(learner, checkpoints.parent):
            if not real:  # the witness has to write as well
                field.trained.rename(directory / "before.jsonl")
                field.trained.touch()
            old = [name for name in saved() if not name.endswith(".tmp")]
            until(lambda: field.run.metric(failed, learner) >= 1, PATIENCE_SECONDS, "a failed checkpoint")
            time.sleep(seconds)
            during = field.wait_updates(1)
            failures = field.run.metric(failed, learner)
            left = [name for name in saved() if not name.endswith(".tmp")]
            assert left == old, "an old checkpoint is gone"
            assert all(checkpoint.load(checkpoints / name) for name in left)
        until(lambda: saved()[-1] > old[-1], PATIENCE_SECONDS, "a new checkpoint")
        assert not [name for name in saved() if name.endswith(".tmp") and name < saved()[-1]]
        stop(actors)
        stop(learner)
    return {
        "disk": "a file system of its own" if real else "a limit on file sizes",
        "checkpoint_failures": failures,
        "update_seconds_while_full": during,
        "imbalances_exported": sorted(field.sampler.imbalances),
    }


def damaged_checkpoints(directory: Path) -> Figures:
    """B10: one bit turned, or cut off, in every 1/64 of the newest file: the one before it is used."""
    field = Field(directory)
    with field.learner() as learner, field.actor(procs=2) as actors:
        checkpoints = field.run.path / "checkpoints"
        until(
            lambda: checkpoints.exists() and len(list(checkpoints.iterdir())) >= 1,
            PATIENCE_SECONDS,
            "a checkpoint",
        )
        field.wait_updates(5)
        stop(actors)
        stop(learner)
    *_, before, last = sorted(checkpoints.glob("*.safetensors"))
    sound, size = last.read_bytes(), last.stat().st_size
    expected = checkpoint.load(before).meta["version"]
    tried = 0
    for part in range(64):
        at = (size * part) // 64 + size // 128
        flipped = bytearray(sound)
        flipped[at] ^= 1 << (part % 8)
        for damaged in (bytes(flipped), sound[: (size * part) // 64]):
            last.write_bytes(damaged)
            found = checkpoint.newest(checkpoints)
            assert found is not None and found.meta["version"] == expected, (part, len(damaged))
            tried += 1
    before.write_bytes(sound[: size // 2])
    for other in checkpoints.glob("*.safetensors"):
        other.write_bytes(other.read_bytes()[: size // 2])
    with contextlib.suppress(CheckpointError):
        checkpoint.newest(checkpoints)
        raise AssertionError("expected a refusal when every checkpoint is damaged")
    return {"damaged": tried, "fell_back": tried}


def terminated(directory: Path) -> Figures:
    """B12: SIGTERM of remote actors, then of the learner with its local ones: all exit 0, nothing is lost."""
    field = Field(directory)
    with field.learner("--local-actors", "1") as learner, field.actor(procs=2) as actors:
        until(lambda: field.made_by(actors) > 4 * CHUNK_STEPS, PATIENCE_SECONDS, "all to play")
        field.wait_updates(20)
        start = time.monotonic()
        stop(actors)
        actors_seconds = time.monotonic() - start
        field.wait_updates(5)
        start = time.monotonic()
        stop(learner)
        learner_seconds = time.monotonic() - start
    figures = field.figures()
    assert "actor_lost" not in figures["dropped_steps"], figures
    return {"actors_left_seconds": actors_seconds, "learner_left_seconds": learner_seconds, **figures}


def replayed_frames(directory: Path, chunks: int, seed: int = 0) -> Figures:
    """B11: chunks said twice, in the wrong order, again much later, and again to the learner's next life."""
    field, chance = Field(directory, seed), random.Random(seed)
    count_file = directory / "steps" / "1"  # the peer is in this process; no other has that number

    def asked_again() -> bool:
        peer.receive(0.2)
        return peer.resends > 0

    with Replayer(field.run.port, STEPS, LANES, count_file) as peer:
        with field.learner() as learner:
            peer.join()
            said = 0
            for _ in range(chunks):
                peer.wait_credit()
                offsets = [peer.record()]
                # One more than there is credit for, and the later one first; ten such offences are a ban.
                if peer.resends < 5 and chance.random() < 0.2:
                    offsets = [peer.record(), *offsets, peer.produced - CHUNK_STEPS]
                offsets += [offsets[0]] * chance.randrange(2)
                offsets += chance.choices(list(peer.frames), k=chance.randrange(3))
                for offset in offsets:
                    peer.send_chunk(offset)
                said += len(offsets)
            peer.wait_credit()
            until(asked_again, PATIENCE_SECONDS, "a resend asked for")
            until(lambda: field.run.metric(_DUPLICATES, learner) > 0, PATIENCE_SECONDS, "duplicates counted")
            duplicates = field.run.metric(_DUPLICATES, learner)
            until(lambda: bool(field.sampler.imbalances), PATIENCE_SECONDS, "a sample of the imbalance")
            with frozen(psutil.Process(learner.pid)):
                held = peer.record()
                peer.send_chunk(held)  # the old generation never reads it
                kill(learner.pid)
            learner.process.wait()
        with field.learner("--resume") as learner:
            peer.joined = False
            peer.send_chunk(held)
            peer.join()
            for offset in [*chance.choices(list(peer.frames), k=20), held]:
                peer.send_chunk(offset)
            until(
                lambda: peer.receive(0.2) is not None and peer.settled >= peer.produced,
                PATIENCE_SECONDS,
                "old frames booked",
            )
            for _ in range(20):
                peer.wait_credit()
                peer.send_chunk(peer.record())
            peer.leave()
            stop(learner)
    figures = field.figures()
    assert figures["dropped_steps"]["old_generation"] == CHUNK_STEPS, figures
    assert peer.resends > 0
    return {
        "chunks": len(peer.frames),
        "sent_in_all": said + 42,
        "duplicates_refused": duplicates,
        "resends_asked": peer.resends,
        **figures,
    }
