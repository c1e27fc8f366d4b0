"""`python -m learner.checkpoints list|verify|keep RUN_DIR`: shows, verifies and pins checkpoints."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common import arguments, log
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_DONE, EXIT_INTERNAL, Fatal
from learner.runs import read_config, unwritable_file
from learner.training import checkpoint
from learner.training.checkpoint import CheckpointError
from learner.training.stored_checkpoints import StoredCheckpoint, pin, stored_checkpoints

_HEAD = f"{'update':>9} {'steps':>13}  {'saved (UTC)':19} {'return':>10} {'bytes':>13}  kept as"


def _row(stored: StoredCheckpoint, batch_steps: int) -> str:
    facts = stored.facts
    saved = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(facts.saved_at))
    score = "-" if facts.mean_return is None else f"{facts.mean_return:,.1f}"
    kept = [*stored.reasons, *(["pinned"] if stored.pinned else [])]
    return (
        f"{facts.version:9} {facts.version * batch_steps:13,}  {saved} {score:>10} "
        f"{stored.path.stat().st_size:13,}  {', '.join(kept) or 'deleted at the next save'}"
    )


def _list(run_dir: Path) -> int:
    """Print a table of the checkpoints."""
    batch_steps = read_config(run_dir).rollout.batch_steps
    stored, unreadable = stored_checkpoints(run_dir / "checkpoints")
    print(_HEAD)
    for one in stored:
        print(_row(one, batch_steps))
    for path in unreadable:
        print(f"{path.stem:>9} cannot be read: {path}")
    return EXIT_DONE


def _verify(run_dir: Path) -> int:
    """Read every checkpoint and compare its digest; return an error code if one is damaged."""
    damaged = 0
    for path in sorted((run_dir / "checkpoints").glob("*.safetensors")):
        try:
            checkpoint.load(path)
        except CheckpointError as error:
            damaged += 1
            print(f"{path.stem:>9} damaged: {error}")
        else:
            print(f"{path.stem:>9} intact")
    return EXIT_INTERNAL if damaged else EXIT_DONE


def _keep(run_dir: Path, update: int) -> int:
    path = checkpoint.file_of(run_dir / "checkpoints", update)
    try:
        mark = pin(path)
    except CheckpointError as error:
        raise Fatal(EXIT_CONFIGURATION, str(error)) from None
    except OSError as error:
        raise unwritable_file(path.parent, error, "make the run directory writable") from None
    print(f"{path} is kept until {mark.name} beside it is deleted")
    return EXIT_DONE


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.Parser(
        prog="python -m learner.checkpoints", description="Show, verify and pin the checkpoints of a run."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="list|verify|keep")
    texts = {
        "list": "print update, steps, time, return and size of each checkpoint, and why it is kept",
        "verify": "read every checkpoint and compare its digest",
        "keep": "never delete the checkpoint of an update",
    }
    for name, text in texts.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="directory of a run")
        if name == "keep":
            command.add_argument(
                "update", metavar="UPDATE", type=arguments.at_least(0), help="update of the checkpoint"
            )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands; return the exit code."""
    log.configure("checkpoints")

    def command() -> int:
        options = _options(argv)
        if not (options.run_dir / "checkpoints").is_dir():
            raise Fatal(
                EXIT_CONFIGURATION,
                f"expected the directory of a run, got {options.run_dir} without checkpoints: name another",
            )
        match options.command:
            case "list":
                return _list(options.run_dir)
            case "verify":
                return _verify(options.run_dir)
        return _keep(options.run_dir, options.update)

    return arguments.exit_code(command, "checkpoints")


if __name__ == "__main__":
    sys.exit(main())
