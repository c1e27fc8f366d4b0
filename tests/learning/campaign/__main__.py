"""`python -m tests.learning.campaign`: the queue of learning runs.

    python -m tests.learning.campaign list
    python -m tests.learning.campaign run --work DIR [NAME...]

`run` starts the rows that have no finished record, in their order or as named, one after the other with
two local actors at the lowest priority. An interrupted row continues with --resume. Ctrl-C ends the row's
learner, writes its record, and ends the command. Start it in a clone of a tagged commit, so that the code of
a run does not change while it waits, and stop it with SIGSTOP to its process group while something else is
measured.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from common.files import write_atomically
from common.process.lifecycle import EXIT_DONE, EXIT_INTERNAL, EXIT_TEMPORARY
from learner.runs import read_config
from tests.bench.machine import hardware
from tests.learning.campaign import compose
from tests.learning.campaign.record import record
from tests.learning.campaign.report import DIRECTORY, read_records, state
from tests.learning.campaign.rows import ROWS, Row

_ROOT = Path(__file__).parents[3]
_LOWEST_PRIORITY = 19
_EPISODES = 100
_POLL_SECONDS = 5.0


def _listed() -> int:
    records = read_records()
    for row in ROWS:
        print(f"{row.name:24}{state(row.arm, records.get(row.name))}")
    return EXIT_DONE


def _run(work: Path, results: Path, names: Sequence[str]) -> int:
    """Run the rows until one is interrupted; returns the exit code."""
    records = read_records(results)
    named = [row for row in ROWS if row.name in names] if names else list(ROWS)
    for row in named:
        if state(row.arm, records.get(row.name)) == "finished":
            continue
        code = (
            _train_in_containers(row, work / row.name) if row.arm.containers else _train(row, work / row.name)
        )
        if code != EXIT_DONE:
            print(f"{row.name}: the learner ended with {code}: see {work / row.name}.log", file=sys.stderr)
            return EXIT_INTERNAL
        kept = _record(row, work / row.name, results)
        print(f"{row.name}: {state(row.arm, kept)}", flush=True)
        if state(row.arm, kept) != "finished":
            return EXIT_DONE
    return EXIT_DONE


def _train(row: Row, run_dir: Path) -> int:
    """Run the learner to its budget and evaluate it; SIGINT and SIGTERM end the learner after its update."""
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    machine = ("--local-actors", "2", "--run-dir", str(run_dir), "--resume", "--bind", "tcp://127.0.0.1:5755")
    with run_dir.with_suffix(".log").open("a") as log:
        learner = subprocess.Popen(
            [sys.executable, "-m", "learner", *row.arm.command(row.seed), *machine],
            cwd=_ROOT,
            stdout=log,
            stderr=log,
        )
        signal.signal(signal.SIGINT, lambda *_: None)  # the terminal sends it to the learner as well
        signal.signal(signal.SIGTERM, lambda *_: learner.terminate())
        while learner.poll() is None:
            time.sleep(_POLL_SECONDS)
            if _trained_steps(run_dir) >= row.arm.budget_steps:
                learner.terminate()
                break
        code = learner.wait()
        if code in (EXIT_DONE, EXIT_TEMPORARY):  # it was stopped after an update
            reached = _trained_steps(run_dir) >= row.arm.budget_steps
            code = _evaluate(run_dir, log) if reached else EXIT_DONE
    return code


def _train_in_containers(row: Row, run_dir: Path) -> int:
    compose.train(row, run_dir)
    with run_dir.with_suffix(".log").open("a") as log:
        return _evaluate(run_dir, log)


def _evaluate(run_dir: Path, log: IO[str]) -> int:
    words = [sys.executable, "-m", "learner.evaluate", str(run_dir), "--episodes", str(_EPISODES)]
    return subprocess.run(words, cwd=_ROOT, stdout=log, stderr=log, check=False).returncode


def _trained_steps(run_dir: Path) -> int:
    """The trained steps of the newest checkpoint."""
    versions = [int(path.stem) for path in (run_dir / "checkpoints").glob("*.safetensors")]
    return max(versions) * read_config(run_dir).rollout.batch_steps if versions else 0


def _record(row: Row, run_dir: Path, results: Path) -> dict[str, object]:
    """Write the record of a row."""
    git = ["git", "describe", "--always", "--tags", "--dirty"]
    commit = subprocess.run(git, cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()
    facts = hardware()
    processor = f"{facts['cores']} cores of {facts['processor']}"
    kept = record(row, run_dir, commit, processor)
    results.mkdir(exist_ok=True)
    write_atomically(results / f"{row.name}.json", json.dumps(kept, separators=(",", ":")).encode() + b"\n")
    return kept


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.learning.campaign", description="Learning runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="print every row with its state")
    run = commands.add_parser("run", help="run the rows that are not finished")
    run.add_argument("--work", type=Path, required=True, help="parent of the run directories")
    run.add_argument("--results", type=Path, default=DIRECTORY, help="where records are written")
    run.add_argument("names", nargs="*", choices=[[], *(row.name for row in ROWS)], metavar="NAME")
    options = parser.parse_args(argv)
    if options.command == "list":
        return _listed()
    os.nice(_LOWEST_PRIORITY)
    return _run(options.work, options.results, options.names)


if __name__ == "__main__":
    sys.exit(main())
