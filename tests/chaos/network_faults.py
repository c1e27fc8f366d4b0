"""Faults of the network: partitions, broken and slow connections, damaged and repeated messages.

The arguments of a scenario are the number and the length of its faults, so it has a short and a long form. It
compares the ledger with independent counts and returns figures. For a figure NAME that depends on the machine
it also returns NAME_bound, which only the long form checks.
"""

from __future__ import annotations

import contextlib
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
from tests.support.processes import free_port, kill, wait_until
from tests.support.proxy import PARTITION, FaultProxy, NetworkConditions, schedule
from tests.support.replayer import Replayer

_DUPLICATES = "outrider_wire_duplicate_chunks_total"


def partitions(directory: Path, count: int, seconds: tuple[float, float], seed: int = 0) -> Figures:
    """B3 and B4: no traffic passes, or none in one direction, or the learner's end of a connection closes.

    The faults affect two actors in turn, each behind its own proxy; a third actor lets the learner train on.
    """
    harness = FaultHarness(directory, seed)
    faults = schedule(
        seed,
        count,
        seconds,
        (PARTITION, NetworkConditions(hold_up=True), NetworkConditions(hold_down=True), None),
    )
    ports = [free_port() for _ in range(2)]
    backs, gaps = [], []
    with contextlib.ExitStack() as stack:
        learner = stack.enter_context(harness.learner())
        proxies = [stack.enter_context(FaultProxy(port, harness.run.port, seed)) for port in ports]
        cut = [stack.enter_context(harness.actor(port)) for port in ports]
        free = stack.enter_context(harness.actor())
        harness.wait_steps(*cut, free, more=4 * CHUNK_STEPS)
        for number, fault in enumerate(faults):
            proxy, actor, since = proxies[number % 2], cut[number % 2], len(harness.updates())
            time.sleep(fault.pause_seconds)
            if fault.conditions is None:
                proxy.half_open()
            else:
                with proxy.during(fault.conditions):
                    time.sleep(fault.seconds)
            backs.append(harness.wait_steps(actor))
            gaps.append(harness.longest_gap(since))
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
        **harness.figures(),
    }


def broken_connections(directory: Path, cut_bytes: int, seconds: float, seed: int = 0) -> Figures:
    """B5: every connection breaks after about `cut_bytes`, and each block is delayed."""
    harness, port = FaultHarness(directory, seed), free_port()
    with (
        FaultProxy(port, harness.run.port, seed) as proxy,
        harness.learner() as learner,
        harness.actor(port) as first,
        harness.actor(port) as second,
    ):
        harness.wait_updates(20)
        with proxy.during(NetworkConditions(cut_bytes=cut_bytes, delay_seconds=0.002)):
            proxy.half_open()  # so that every connection is a new one, with these conditions
            time.sleep(seconds)
            wait_until(lambda: proxy.cuts >= 3, "three cuts", START_SECONDS)
            harness.wait_updates(5)
        harness.wait_updates(20)
        duplicates = harness.run.metric(_DUPLICATES, learner)
        for actor in (first, second):
            stop(actor)
        stop(learner)
    return {"cuts": proxy.cuts, "duplicate_chunks": duplicates, **harness.figures()}


def damaged_bytes(directory: Path, seconds: float, seed: int = 0) -> Figures:
    """B11: bits flip and blocks are dropped; damaged messages are refused, and the others accounted for."""
    harness, port = FaultHarness(directory, seed), free_port()
    with (
        FaultProxy(port, harness.run.port, seed) as proxy,
        harness.learner() as learner,
        harness.actor() as undisturbed,
        harness.actor(port),
    ):
        harness.wait_updates(20)
        with proxy.during(NetworkConditions(flip=0.02, drop=0.01)):
            time.sleep(seconds)
            harness.wait_updates(5)
        stop(undisturbed)
        stop(learner)
        imbalances = sorted(harness.sampler.imbalances)
    assert imbalances == [0.0]
    assert proxy.flips + proxy.drops > 0
    kept = harness.timeline()
    seen = sum(last - first + 1 for row in kept for _, first, last, _ in row["lanes"])
    trained = harness.run.summary()["trained_steps"]
    assert seen == trained == len(kept) * STEPS * BATCH_LANES
    return {
        "bits_flipped": proxy.flips,
        "blocks_dropped": proxy.drops,
        "trained_steps": trained,
        "imbalance_steps": 0,
    }


def slow_actor(directory: Path, seconds: float, bytes_per_second: float = 7_000.0) -> Figures:
    """B6: one actor of three has a rate of 56 kbit/s; it delays an update by at most the straggler bound."""
    harness, port = FaultHarness(directory), free_port()
    with (
        FaultProxy(port, harness.run.port) as proxy,
        harness.learner() as learner,
        harness.actor(procs=2) as fast,
        harness.actor(port) as slow,
    ):
        harness.wait_steps(fast, slow, more=4 * CHUNK_STEPS)
        before, start = len(harness.updates()), time.monotonic()
        time.sleep(seconds / 2)
        usual = (len(harness.updates()) - before) / (time.monotonic() - start)
        since, start = len(harness.updates()), time.monotonic()
        with proxy.during(NetworkConditions(bytes_per_second=bytes_per_second)):
            time.sleep(seconds)
            rate = (len(harness.updates()) - since) / (time.monotonic() - start)
            gap, bound = harness.longest_gap(since)
        for actor in (slow, fast):
            stop(actor)
        stop(learner)
    return {
        "updates_per_second": usual,
        "updates_per_second_with_a_slow_actor": rate,
        "update_gap_seconds_max": gap,
        "update_gap_seconds_max_bound": bound,
        **harness.figures(),
    }


def replayed_frames(directory: Path, chunks: int, seed: int = 0) -> Figures:
    """B11: chunks arrive twice, out of order, again much later, and again at the resumed learner."""
    harness, rng = FaultHarness(directory, seed), random.Random(seed)
    count_file = directory / "steps" / "1"  # the peer is in this process; no other process has this id
    with Replayer(harness.run.port, STEPS, LANES, count_file) as peer:
        with harness.learner() as learner:
            peer.join()
            sent = 0
            for _ in range(chunks):
                peer.wait_credit()
                offsets = [peer.record()]
                # A chunk beyond the credit is sent before the earlier one; ten such violations cause a ban.
                if peer.resends < 5 and rng.random() < 0.2:
                    offsets = [peer.record(), *offsets, peer.produced - CHUNK_STEPS]
                offsets += [offsets[0]] * rng.randrange(2)
                offsets += rng.choices(list(peer.frames), k=rng.randrange(3))
                for offset in offsets:
                    peer.send_chunk(offset)
                sent += len(offsets)
            peer.wait_credit()
            wait_until(lambda: peer.resends > 0, "a Resend", START_SECONDS, between=lambda: peer.receive(0.2))
            wait_until(
                lambda: harness.run.metric(_DUPLICATES, learner) > 0, "duplicates counted", START_SECONDS
            )
            duplicates = harness.run.metric(_DUPLICATES, learner)
            wait_until(lambda: bool(harness.sampler.imbalances), "a sample of the imbalance", START_SECONDS)
            with frozen(psutil.Process(learner.pid)):
                held = peer.record()
                peer.send_chunk(held)  # the old generation never reads it
                kill(learner.pid)
            learner.process.wait()
        with harness.learner("--resume") as learner:
            peer.joined = False
            peer.send_chunk(held)
            peer.join()
            for offset in [*rng.choices(list(peer.frames), k=20), held]:
                peer.send_chunk(offset)
            wait_until(
                lambda: peer.settled >= peer.produced,
                "the settlement of the old chunks",
                START_SECONDS,
                between=lambda: peer.receive(0.2),
            )
            for _ in range(20):
                peer.wait_credit()
                peer.send_chunk(peer.record())
            peer.leave()
            stop(learner)
    figures = harness.figures()
    assert figures["dropped_steps"]["old_generation"] == CHUNK_STEPS, figures
    assert peer.resends > 0
    return {
        "chunks": len(peer.frames),
        "messages_sent": sent + 42,
        "duplicates_refused": duplicates,
        "resends_requested": peer.resends,
        **figures,
    }
