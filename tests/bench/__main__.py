"""`python -m tests.bench NAME [--json FILE]`: runs a benchmark, with its reference in the same run."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.bench import actor, damage, fleet, growth, learner, rejoin, report, train, weights, wire
from tests.bench.machine import Load

_SUITE = {  # file of results -> command
    "actor": ["actor"],
    "learner": ["learner"],
    "train": ["train"],
    "wire": ["wire"],
    "damage": ["damage"],
    "fleet-256": ["fleet", "--actors", "256", "--seconds", "120"],
    "fleet-2000": ["fleet", "--actors", "2000", "--seconds", "30"],
    "weights": ["weights"],
    "growth": ["growth"],
    "rejoin": ["rejoin"],
}
_TIMEOUT_SECONDS = 900


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True)
    for name in (
        "actor",
        "learner",
        "train",
        "wire",
        "damage",
        "fleet",
        "weights",
        "growth",
        "rejoin",
        "lag",
    ):
        one = names.add_parser(name)
        one.add_argument("--json", type=Path, metavar="FILE", help="also write the result to this file")
        if name == "learner":
            one.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
        elif name == "wire":
            one.add_argument("--trained", type=Path, action="append", default=[], metavar="RUN_DIR")
        elif name == "rejoin":
            one.add_argument("--actors", type=int, default=2_000)
        elif name == "fleet":
            one.add_argument("--actors", type=int, default=256)
            one.add_argument("--rate", type=float, help="limit of the chunks per second of all actors")
            one.add_argument("--seconds", type=float, default=30.0)
        elif name == "weights":
            one.add_argument("--pullers", type=int, default=64)
    names.add_parser("all", help="run all benchmarks and write the page; takes ten to twenty minutes")
    names.add_parser("report", help="write the page from the stored results")
    return parser.parse_args()


def _measure(options: argparse.Namespace) -> dict[str, object]:
    benchmarks: dict[str, Callable[[], dict[str, object]]] = {
        "actor": actor.measure,
        "learner": lambda: learner.measure(options.device),
        "train": train.measure,
        "wire": lambda: wire.measure(options.trained),
        "damage": damage.measure,
        "fleet": lambda: fleet.measure(options.actors, options.rate, options.seconds),
        "weights": lambda: weights.measure(options.pullers),
        "growth": growth.measure,
        "rejoin": lambda: rejoin.measure(options.actors),
        "lag": train.compare_lags,
    }
    load = Load()
    result = benchmarks[options.name]()
    return {**result, "cores_used_by_others": load.of_others()}


def _all() -> None:
    report.RESULTS.mkdir(exist_ok=True)
    for name, argv in _SUITE.items():
        print(f"\n{name}", flush=True)
        command = [sys.executable, "-m", "tests.bench", *argv, "--json", str(report.RESULTS / f"{name}.json")]
        subprocess.run(command, check=True, timeout=_TIMEOUT_SECONDS)


def main() -> int:
    """Run one benchmark or all, and print a table and a JSON object for each."""
    options = _parse()
    if options.name == "all":
        _all()
    if options.name in ("all", "report"):
        report.write()
        return 0
    result = _measure(options)
    for name, value in result.items():
        print(f"{name:28} {value}")
    print(json.dumps(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
