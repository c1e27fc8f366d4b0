"""`python -m actor --learner HOST:PORT [--procs N]`: actors for a learner, from any machine."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

import structlog

from common import log
from common.lifecycle import EXIT_INTERNAL, EXIT_USAGE, Fatal
from common.parent import Parent
from common.transport import parse_address


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
        os.environ["OMP_NUM_THREADS"] = (
            "1"  # before torch, which takes seconds to import: one process, one core
        )
        from actor import build

        if options.procs > 1:
            return build.run_many(options.endpoint, options.procs)
        parent = Parent(options.parent_fd, options.tally_fd)
        return build.run_one(options.endpoint, parent, options.shared_weights)
    except Fatal as fatal:
        print(f"actor: {fatal}", file=sys.stderr)
        return fatal.code
    except Exception:  # noqa: BLE001  # the top of the main thread: a defect of ours, with its traceback
        structlog.get_logger().exception("actor_failed")
        return EXIT_INTERNAL


if __name__ == "__main__":
    sys.exit(main())
