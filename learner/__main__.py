"""`python -m learner [PRESET] [options]`: trains one run, or one run per seed."""

from __future__ import annotations

import sys
from pathlib import Path

from common import arguments, log
from common.process.lifecycle import EXIT_DONE, EXIT_TEMPORARY, stop_on_signals
from learner.commandline import parse


def main() -> int:
    """Run the learner for each run until a signal arrives; return the exit code."""
    log.configure("learner")
    return arguments.exit_code(_train, "learner")


def _train() -> int:
    runs = parse(sys.argv[1:])
    stop = stop_on_signals()  # before torch loads, which takes seconds
    from learner.service import run  # torch takes seconds to import; a wrong option is answered before

    finished = 0
    for config, options in runs:
        summary = run(config, options, stop)
        _print_summary(summary, options.run_dir)
        finished += summary["exit_reason"] == "finished"
        if stop.is_set():
            break
    return stop.exit_code(EXIT_DONE if finished == len(runs) else EXIT_TEMPORARY)


def _print_summary(summary: dict[str, object], path: Path) -> None:
    print(f"run {summary['exit_reason']}: {path}")
    for name, value in summary.items():
        print(f"  {name:24} {value}")


if __name__ == "__main__":
    sys.exit(main())
