"""Builds an actor or the parent of `--procs`, runs it, and closes its parts in reverse order."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import structlog

from actor.fleet import Fleet
from actor.metrics import PHASES, FleetCollector
from actor.service import Actor
from actor.session import Session
from actor.timed_weights import TimedWeights
from actor.weights import PIECE_MESSAGE_BYTES, SharedWeights, WeightsClient, WeightsSource
from common.keys.curve import ActorKeys
from common.metrics import ACTOR_PORT, Exporter
from common.model.precision import configure_torch
from common.phase_timer import PhaseTimer
from common.process.children import ChildProcesses
from common.process.fork_server import ForkServer
from common.process.parent_link import ParentLink
from common.protocol.sockets import Context, DealerSocket, weights_endpoint

_DATA_MESSAGE_BYTES = 1 << 20  # the learner sends only small messages on this port


def run_one(
    endpoint: str,
    keys: ActorKeys | None,
    modules: Sequence[str],
    parent: ParentLink,
    shared_weights: bool,
    metrics_host: str,
    stop: threading.Event,
) -> int:
    """Run one actor; without a parent this process serves its metrics. Return the exit code."""
    configure_torch(threads=1)
    with contextlib.ExitStack() as stack:
        stack.callback(parent.close)
        collector = FleetCollector()
        if parent.fileno() is None:
            _serve_metrics(stack, collector, metrics_host)
            export: Callable[[dict[str, float]], None] = partial(collector.update, 0)
        else:
            export = partial(_send_stats, parent)
        context = stack.enter_context(Context())
        weights: WeightsSource = SharedWeights(parent)
        if not shared_weights:
            weights = TimedWeights(_weights_client(context, endpoint, keys), collector.add_fetch)
        stack.callback(weights.close)
        session = Session(
            lambda: DealerSocket(context, endpoint, _DATA_MESSAGE_BYTES, keys, watched=True), parent
        )
        stack.callback(session.close)
        phases = PhaseTimer(PHASES)
        return Actor(session, weights, parent, stop, phases, export, modules=frozenset(modules)).run()


def run_many(
    server: ForkServer,
    endpoint: str,
    keys: ActorKeys | None,
    keys_path: Path | None,
    modules: Sequence[str],
    procs: int,
    metrics_host: str,
    stop: threading.Event,
) -> int:
    """Run the parent of `--procs`, whose actors read the key file themselves. Return the exit code."""
    with contextlib.ExitStack() as stack:
        collector = FleetCollector()
        _serve_metrics(stack, collector, metrics_host)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outrider-")))
        client = _weights_client(stack.enter_context(Context()), endpoint, keys)
        weights = TimedWeights(client, collector.add_fetch)
        stack.callback(weights.close)
        argv = ["--learner", endpoint, "--shared-weights"]
        argv += [word for module in modules for word in ("--allow-module", module)]
        if keys_path is not None:
            argv += ["--keys", str(keys_path)]
        return Fleet(ChildProcesses(server, argv, procs), weights, directory, collector).run(stop)


def _send_stats(parent: ParentLink, stats: dict[str, float]) -> None:
    parent.send({"stats": stats})


def _weights_client(context: Context, endpoint: str, keys: ActorKeys | None) -> WeightsClient:
    return WeightsClient(lambda: DealerSocket(context, weights_endpoint(endpoint), PIECE_MESSAGE_BYTES, keys))


def _serve_metrics(stack: contextlib.ExitStack, collector: FleetCollector, host: str) -> None:
    exporter = Exporter(collector.registry(), ACTOR_PORT, host)
    stack.callback(exporter.close)
    structlog.get_logger().info("metrics_served", port=exporter.port)
