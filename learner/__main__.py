"""`python -m learner [PRESET] [options]`: train, with local actors or for a fleet."""

from __future__ import annotations

import sys
from pathlib import Path

import structlog

from common import log
from common.lifecycle import EXIT_DONE, EXIT_INTERNAL, Fatal, stop_on_signals
from learner.commandline import parse


def main() -> int:
    """Run a learner; returns the exit code."""
    log.configure("learner")
    try:
        config, options = parse(sys.argv[1:])
        from learner.service import run  # torch takes seconds to import; a typo is answered at once

        summary = run(config, options, stop_on_signals())
    except Fatal as fatal:
        print(f"learner: {fatal}", file=sys.stderr)
        return fatal.code
    except Exception:  # noqa: BLE001  # the top of the main thread: a defect of ours, with its traceback
        structlog.get_logger().exception("learner_failed")
        return EXIT_INTERNAL
    _print_summary(summary, options.run_dir)
    return EXIT_DONE


def _print_summary(summary: dict[str, object], path: Path) -> None:
    print(f"run {summary['exit_reason']}: {path}")
    for name, value in summary.items():
        print(f"  {name:24} {value}")


if __name__ == "__main__":
    sys.exit(main())
