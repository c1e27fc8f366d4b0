"""`python -m learner [PRESET] [options]`: trains one run, or one run per seed."""

from __future__ import annotations

import sys
from pathlib import Path

from common import arguments, log
from common.process.lifecycle import stop_on_signals
from learner.commandline import parse


def main() -> int:
    """Run the learner for each run until a signal arrives; return the exit code."""
    log.configure("learner")
    return arguments.exit_code(_train, "learner")


def _train() -> None:
    runs = parse(sys.argv[1:])
    stop = stop_on_signals()  # before torch loads: a learner that is stopped while it starts ends with 0
    from learner.service import run  # torch takes seconds to import; a wrong option is answered before

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
