"""`python -m learner [PRESET] [options]`: train, with local actors or for a fleet."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
import sys
import time
from pathlib import Path
from typing import Annotated

import tyro

from common import log
from common.config import Config
from common.lifecycle import EXIT_CONFIGURATION, EXIT_DONE, EXIT_USAGE, Fatal, stop_on_signals
from common.presets import DEFAULT_PRESET, PRESETS
from common.transport import is_loopback, parse_address
from learner.service import Options, resumed, run

_DEFAULT_BIND = "tcp://127.0.0.1:5555"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Process:
    """What belongs to this process and machine, not to the run."""

    run_dir: Path | None = None
    """Where the run is kept; default runs/PRESET-SEED-TIME."""
    bind: str = _DEFAULT_BIND
    """Address of the data port; weights are served on the next port."""
    local_actors: int = 0
    """Actor processes to start on this machine, with the learner."""
    resume: bool = False
    """Continue from the newest intact checkpoint in --run-dir, or start there."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda."""


@dataclasses.dataclass(frozen=True)
class _CommandLine:
    """Every option, without a prefix for the two halves."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    process: Annotated[Process, tyro.conf.arg(name="")]


def parse(argv: list[str]) -> tuple[Config, Process]:
    """Read the command line.

    Raises:
        Fatal: one sentence, exit code 2.
    """
    preset = argv[0] if argv and not argv[0].startswith("-") else DEFAULT_PRESET
    options = argv[1:] if argv and not argv[0].startswith("-") else argv
    if preset not in PRESETS:
        close = difflib.get_close_matches(preset, PRESETS, n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else "see python -m learner --help"
        raise Fatal(EXIT_USAGE, f"expected a preset ({', '.join(PRESETS)}), got {preset!r}: {hint}")
    description = f"Train an agent. Presets, as the first word: {', '.join(PRESETS)} (default {DEFAULT_PRESET})."
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            line = tyro.cli(
                _CommandLine,
                args=options,
                default=_CommandLine(PRESETS[preset], Process()),
                prog="python -m learner",
                description=description,
            )
    except SystemExit as leaving:
        if leaving.code:
            raise Fatal(EXIT_USAGE, _sentence(complaint.getvalue())) from None
        raise
    return line.config, line.process


def _sentence(box: str) -> str:
    """Tyro's framed explanation as one sentence: what is wrong, and the nearest option if it names one."""
    lines = [line.strip(" \u2502") for line in box.splitlines() if line.startswith("\u2502")]
    wrong = " ".join(itertools.takewhile(lambda line: not line.startswith("\u2500"), lines))
    meant = next((line.split()[0] for line in lines if line.startswith("--")), None)
    hint = f"did you mean {meant}?" if meant and "Unrecognized" in wrong else "see python -m learner --help"
    return f"{wrong}: {hint}"


def main() -> int:
    """Run a learner; returns the exit code."""
    log.configure("learner")
    try:
        config, process = parse(sys.argv[1:])
        stop = stop_on_signals()
        stamp = time.strftime("%Y%m%d-%H%M%S")
        path = process.run_dir or Path("runs") / f"{config.preset}-{config.seed}-{stamp}"
        if process.resume and (path / "config.json").exists():
            config = resumed(config, path)
        options = Options(path, _bind(process.bind), process.local_actors, process.resume, process.device)
        summary = run(config, options, stop)
    except Fatal as fatal:
        print(f"learner: {fatal}", file=sys.stderr)
        return fatal.code
    print_summary(summary, path)
    return EXIT_DONE


def _bind(address: str) -> str:
    try:
        endpoint = parse_address(address)
    except ValueError as error:
        raise Fatal(EXIT_USAGE, str(error)) from None
    if not is_loopback(endpoint):
        raise Fatal(
            EXIT_CONFIGURATION,
            f"expected --bind on this machine (tcp://127.0.0.1:PORT), got {address}: this release has no keys, so it refuses other machines",
        )
    return endpoint


def print_summary(summary: dict[str, object], path: Path) -> None:
    """The end of a run, in a few lines for a person."""
    rows = [f"  {name:24} {value}" for name, value in summary.items()]
    sys.stdout.write("\n".join([f"run {summary['exit_reason']}: {path}", *rows]) + "\n")


if __name__ == "__main__":
    sys.exit(main())
