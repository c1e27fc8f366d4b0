"""`python -m learner [PRESET] [options]`: train, with local actors or for a fleet, one run or several."""

from __future__ import annotations

import sys
from pathlib import Path

from common import arguments, log
from common.process.lifecycle import stop_on_signals
from learner.commandline import parse


def main() -> int:
    """Run a learner, or one after the other until a signal comes; returns the exit code."""
    log.configure("learner")
    return arguments.exit_code(_train, "learner")


def _train() -> None:
    runs = parse(sys.argv[1:])
    stop = stop_on_signals()  # before torch as well: a learner stopped while it starts leaves with 0
    from learner.service import run  # torch takes seconds to import; a typo is answered at once

    for config, options in runs:
        _print_summary(run(config, options, stop), options.run_dir)
        if stop.is_set():
            break


def _print_summary(summary: dict[str, object], path: Path) -> None:
    print(f"run {summary['exit_reason']}: {path}")
    for name, value in summary.items():
        print(f"  {name:24} {value}")


if __name__ == "__main__":
    sys.exit(main())
