"""`python -m tests.chaos.attack --pairs N --seconds S`: throughput with and without hostile sessions.

Each pair is two runs with the same seed: honest remote actors over CURVE train the smoke task, in one of them
beside two hostile sessions of another key. The order alternates from pair to pair. The figure is the ratio of
the trained steps per second, as the geometric mean of all pairs with its 95 % interval.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from common.process.lifecycle import EXIT_TEMPORARY
from tests.bench.machine import Load
from tests.support.keyed_run import attack, make_keys, start_actors
from tests.support.processes import Command, Run, free_port, wait_until
from tests.support.result_files import keep

TARGET_RATIO = 0.95
HOSTILE_SESSIONS, HONEST_ACTORS = 2, 2
_ARGUMENTS = ("smoke", "--total-steps", "1000000000", "--rnd.warmup-steps", "512")
_TRAINED = "outrider_learner_steps_trained_total"
_START_SECONDS = 300.0  # the longest wait for the first updates, on a busy machine
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # Student's t, by degrees of freedom from 1


def measure(directory: Path, pairs: int, seconds: float) -> dict[str, object]:
    """Measure pairs of runs, and return their rates, the ratio and what the attack did."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    attacks: Counter[str] = Counter()
    load = Load()
    for number in range(pairs):
        for attacked in (False, True) if number % 2 == 0 else (True, False):
            path = directory / f"{number}-{'attacked' if attacked else 'usual'}"
            rate = _rate(path, number, HOSTILE_SESSIONS if attacked else 0, seconds, attacks)
            rates[attacked].append(round(rate, 2))
            print(f"pair {number + 1}: {path.name}: {rate:.1f} trained steps/s", flush=True)
    ratio, low, high = ratio_interval(rates[False], rates[True])
    return {
        "steps_per_second": rates[False],
        "steps_per_second_attacked": rates[True],
        "ratio": round(ratio, 4),
        "ratio_low": round(low, 4),
        "ratio_high": round(high, 4),
        "seconds": seconds,
        "hostile_sessions": HOSTILE_SESSIONS,
        **attacks,
        "cores_used_by_others": load.of_others(),
    }


def ratio_interval(usual: list[float], attacked: list[float]) -> tuple[float, float, float]:
    """The geometric mean of the ratios of pairs, and the ends of its 95 % interval by Student's t."""
    logs = [math.log(after / before) for before, after in zip(usual, attacked, strict=True)]
    mean = statistics.fmean(logs)
    if len(logs) == 1:
        return math.exp(mean), 0.0, math.inf
    t = _T95[min(len(logs) - 1, len(_T95)) - 1]
    half = t * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def _rate(directory: Path, seed: int, hostile: int, seconds: float, attacks: Counter[str]) -> float:
    """The trained steps per second of one run from its first updates on."""
    directory.mkdir(parents=True)
    run = Run(directory, free_port(), (*_ARGUMENTS, "--seed", str(seed), *make_keys(directory)))
    with run.learner() as learner:
        actors = start_actors(run, "actors", run.port, HONEST_ACTORS)
        try:
            wait_until(lambda: run.metric(_TRAINED, learner) > 0, "training", _START_SECONDS)
            with attack(run, hostile) as peers:
                wait_until(lambda: all(peer.sessions for peer in peers), "hostile sessions")
                before, start = _next_update(run, learner)
                time.sleep(seconds)
                after, end = _next_update(run, learner)
            for peer in peers:
                counts = {"messages": peer.sent, "grants": peer.grants, "sessions": peer.sessions}
                attacks.update(counts | {"bans": peer.bans})
            for command in (actors, learner):
                command.process.terminate()
                assert command.finish() == EXIT_TEMPORARY, command.err.read_text()[-2000:]
        finally:
            actors.end()
    summary = run.summary()
    assert (summary["imbalance_steps"], summary["in_flight_steps"]) == (0, 0), summary
    return (after - before) / (end - start)


def _next_update(run: Run, learner: Command) -> tuple[float, float]:
    """Wait for an update; return the trained steps and the time."""
    before = run.metric(_TRAINED, learner)
    wait_until(lambda: run.metric(_TRAINED, learner) > before, "an update", _START_SECONDS)
    return run.metric(_TRAINED, learner), time.monotonic()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.attack", description=__doc__)
    parser.add_argument("--pairs", type=int, default=6, help="number of pairs of runs (default 6)")
    parser.add_argument("--seconds", type=float, default=60.0, help="measured time of each run (default 60)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        figures = measure(Path(directory), options.pairs, options.seconds)
    for name, value in figures.items():
        print(f"{name:28} {value}")
    keep("throughput-under-attack", figures)
    return 0 if float(str(figures["ratio"])) >= TARGET_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
