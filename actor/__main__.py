"""`python -m actor --learner HOST:PORT [--procs N] [--keys FILE]`: runs one or more actors for a learner."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from common import arguments, log
from common.cores import usable_cores
from common.keys.files import KeysError, read_key_file
from common.metrics import DEFAULT_HOST
from common.process.children import ACTOR_SERVER
from common.process.fork_server import ForkServer
from common.process.lifecycle import (
    EXIT_CONFIGURATION,
    Fatal,
    exit_on_signals,
    exit_process,
    stop_on_signals,
)
from common.process.parent_link import ParentLink
from common.protocol.sockets import parse_address

_LOG_LINES_PER_MINUTE = 100  # of each event: the messages of a hostile learner must not fill the disk


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line of the actors."""
    parser = arguments.Parser(
        prog="python -m actor", description="Step environments with the policy of an Outrider learner."
    )
    parser.add_argument(
        "--learner", required=True, metavar="HOST:PORT", help="address of the learner's data port"
    )
    parser.add_argument(
        "--procs",
        type=_processes,
        default=1,
        metavar="N",
        help="actor processes to run (default 1; auto: one for each core that this process may use)",
    )
    parser.add_argument(
        "--keys",
        dest="keys_path",
        type=Path,
        metavar="FILE",
        help="key file, for a learner with keys (python -m common.keys export)",
    )
    parser.add_argument(
        "--allow-module",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="module that a learner's environment MODULE:Task-v0 may import here; repeat it for others",
    )
    parser.add_argument(
        "--metrics-host",
        default=DEFAULT_HOST,
        metavar="ADDRESS",
        help=f"address on which to serve metrics to Prometheus (default {DEFAULT_HOST}; 0.0.0.0: all)",
    )
    parser.add_argument("--parent-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--shared-weights", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--step-count-fd", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    try:
        options.endpoint = parse_address(options.learner)
    except ValueError as error:
        parser.error(str(error))
    try:
        options.keys = read_key_file(options.keys_path) if options.keys_path is not None else None
    except KeysError as error:
        raise Fatal(EXIT_CONFIGURATION, str(error)) from None
    return options


def _processes(text: str) -> int:
    """The number of processes that `--procs` names."""
    if text == "auto":
        return usable_cores()
    return arguments.at_least(1, "auto")(text)


def main() -> NoReturn:
    """Run actors until the run is finished or a signal arrives, then end the process."""
    log.configure("actor", _LOG_LINES_PER_MINUTE)
    exit_process(arguments.exit_code(_run, "actor"))


def _run() -> int:
    options = parse(sys.argv[1:])
    exit_on_signals()
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported: an actor uses one core
    server = ForkServer(ACTOR_SERVER) if options.procs > 1 else None
    if server is not None:
        server.launch()  # the server loads torch while this process loads it
    from actor import build

    stop = stop_on_signals()
    if server is not None:
        code = build.run_many(
            server,
            options.endpoint,
            options.keys,
            options.keys_path,
            options.modules,
            options.procs,
            options.metrics_host,
            stop,
        )
    else:
        parent = ParentLink(options.parent_fd, options.step_count_fd)
        code = build.run_one(
            options.endpoint,
            options.keys,
            options.modules,
            parent,
            options.shared_weights,
            options.metrics_host,
            stop,
        )
    return stop.exit_code(code)


if __name__ == "__main__":
    main()
