"""`python -m learner [PRESET] [options]`: train, with local actors or for a fleet."""

from __future__ import annotations

import sys
from pathlib import Path

from common import log
from common.lifecycle import EXIT_DONE, Fatal, stop_on_signals
from learner.commandline import parse
from learner.service import run


def main() -> int:
    """Run a learner; returns the exit code."""
    log.configure("learner")
    try:
        config, options = parse(sys.argv[1:])
        summary = run(config, options, stop_on_signals())
    except Fatal as fatal:
        print(f"learner: {fatal}", file=sys.stderr)
        return fatal.code
    _print_summary(summary, options.run_dir)
    return EXIT_DONE


def _print_summary(summary: dict[str, object], path: Path) -> None:
    print(f"run {summary['exit_reason']}: {path}")
    for name, value in summary.items():
        print(f"  {name:24} {value}")


if __name__ == "__main__":
    sys.exit(main())
