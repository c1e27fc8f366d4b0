"""`python -m actor --learner HOST:PORT [--procs N]`: actors for a learner, from any machine."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import structlog

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: one process, one core

from actor.fleet import Fleet
from actor.metrics import FleetCollector, Phases
from actor.service import Actor
from actor.session import Session
from actor.weights import PIECE_MESSAGE_BYTES, SharedWeights, WeightsClient
from common import log
from common.lifecycle import EXIT_USAGE, Fatal, stop_on_signals
from common.metrics import ACTOR_PORT, Exporter
from common.parent import Parent
from common.precision import configure_torch
from common.transport import Client, Context, parse_address, weights_endpoint

_DATA_MESSAGE_BYTES = 1 << 20  # what a learner sends an actor is small


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise Fatal(EXIT_USAGE, f"{message}: see python -m actor --help")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="python -m actor", description="Step environments for an Outrider learner.")
    parser.add_argument(
        "--learner", required=True, metavar="HOST:PORT", help="address of the learner's data port"
    )
    parser.add_argument(
        "--procs", type=int, default=1, metavar="N", help="actor processes to run (default 1)"
    )
    parser.add_argument("--parent-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--shared-weights", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--tally-fd", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    try:
        options.endpoint = parse_address(options.learner)
    except ValueError as error:
        parser.error(str(error))
    if options.procs < 1:
        parser.error(f"expected --procs of at least 1, got {options.procs}")
    return options


def main() -> int:
    """Run actors until the run is finished or a signal comes; returns the exit code."""
    log.configure("actor")
    try:
        options = _parse(sys.argv[1:])
        is_child = options.parent_fd is not None
        return _run_one(options) if is_child or options.procs == 1 else _run_many(options)
    except Fatal as fatal:
        print(f"actor: {fatal}", file=sys.stderr)
        return fatal.code


def _run_one(options: argparse.Namespace) -> int:
    """One actor in this process; alone it exports its own metrics, else its parent does."""
    configure_torch(threads=1)
    stop = stop_on_signals()
    parent = Parent(options.parent_fd, options.tally_fd)
    alone = options.parent_fd is None
    collector = FleetCollector()
    with contextlib.ExitStack() as stack:
        if alone:
            _export(stack, collector)
        stack.callback(parent.close)
        context = stack.enter_context(Context())
        weights = SharedWeights(parent) if options.shared_weights else _pull(context, options.endpoint)
        stack.callback(weights.close)
        session = Session(lambda: Client(context, options.endpoint, _DATA_MESSAGE_BYTES), parent)
        stack.callback(session.close)
        tell = (
            (lambda stats: collector.update(0, stats))
            if alone
            else (lambda stats: parent.send({"stats": stats}))
        )
        return Actor(session, weights, parent, stop, Phases(), tell).run()


def _run_many(options: argparse.Namespace) -> int:
    stop = stop_on_signals()
    collector = FleetCollector()
    with contextlib.ExitStack() as stack:
        _export(stack, collector)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outrider-")))
        weights = _pull(stack.enter_context(Context()), options.endpoint)
        stack.callback(weights.close)
        argv = ["actor", "--learner", options.learner, "--shared-weights"]
        return Fleet(argv, options.procs, weights, directory, collector).run(stop)


def _pull(context: Context, endpoint: str) -> WeightsClient:
    return WeightsClient(lambda: Client(context, weights_endpoint(endpoint), PIECE_MESSAGE_BYTES))


def _export(stack: contextlib.ExitStack, collector: FleetCollector) -> None:
    exporter = Exporter(collector.registry(), ACTOR_PORT)
    stack.callback(exporter.close)
    structlog.get_logger().info("metrics_served", port=exporter.port)


if __name__ == "__main__":
    sys.exit(main())
