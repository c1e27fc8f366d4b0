"""What a user may type after `python -m learner`, turned into values or one sentence of complaint."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from common.config import Config
from common.lifecycle import EXIT_CONFIGURATION, EXIT_USAGE, Fatal
from common.presets import DEFAULT_PRESET, PRESETS
from common.transport import is_loopback, parse_address

_DEVICES = ("auto", "cpu", "cuda")
_DEFAULT_BIND = "tcp://127.0.0.1:5555"


@dataclass(frozen=True, slots=True)
class Options:
    """What belongs to this process and machine, not to the run."""

    run_dir: Path
    bind: str
    local_actors: int
    resume: bool
    device: str


@dataclass(frozen=True, kw_only=True)
class _Process:
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


@dataclass(frozen=True)
class _CommandLine:
    """Every option, without a prefix for the two halves."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    process: Annotated[_Process, tyro.conf.arg(name="")]


def parse(argv: list[str]) -> tuple[Config, Options]:
    """Read the command line, and the configuration of a run to be resumed.

    Raises:
        Fatal: one sentence; exit code 2 for usage, 78 for a run that is not this one.
    """
    preset = argv[0] if argv and not argv[0].startswith("-") else None
    flags = argv if preset is None else argv[1:]
    config, process = _parse(_preset(preset or DEFAULT_PRESET), flags)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = process.run_dir or Path("runs") / f"{config.preset}-{config.seed}-{stamp}"
    if process.local_actors < 0:
        raise Fatal(EXIT_USAGE, f"expected --local-actors of at least 0, got {process.local_actors}")
    if process.device not in _DEVICES:
        raise Fatal(EXIT_USAGE, f"expected --device {' or '.join(_DEVICES)}, got {process.device!r}")
    if process.resume and (path / "config.json").exists():
        earlier = _earlier(path)
        # A preset that was typed counts as typed settings; without one, flags apply to the run's own.
        config, _ = _parse(earlier if preset in (None, earlier.preset) else _preset(preset), flags)
        _require_same(earlier, config, path)
    return config, Options(path, _bind(process.bind), process.local_actors, process.resume, process.device)


def _preset(name: str) -> Config:
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else "see python -m learner --help"
        raise Fatal(EXIT_USAGE, f"expected a preset ({', '.join(PRESETS)}), got {name!r}: {hint}")
    return PRESETS[name]


def _parse(default: Config, flags: list[str]) -> tuple[Config, _Process]:
    """Apply flags to a configuration."""
    description = (
        f"Train an agent. Presets, as the first word: {', '.join(PRESETS)} (default {DEFAULT_PRESET})."
    )
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            line = tyro.cli(
                _CommandLine,
                args=flags,
                default=_CommandLine(default, _Process()),
                prog="python -m learner",
                description=description,
            )
    except SystemExit as leaving:
        if leaving.code:
            raise Fatal(EXIT_USAGE, _sentence(complaint.getvalue())) from None
        raise
    except ValueError as error:  # of the outermost dataclass, which tyro lets through
        raise Fatal(EXIT_USAGE, f"{error}: see python -m learner --help") from None
    return line.config, line.process


def _sentence(box: str) -> str:
    """Tyro's framed explanation as one sentence: what is wrong, and the nearest option if it names one."""
    lines = [line.strip(" \u2502") for line in box.splitlines() if line.startswith("\u2502")]
    wrong = " ".join(itertools.takewhile(lambda line: not line.startswith("\u2500"), lines))
    meant = next((line.split()[0] for line in lines if line.startswith("--")), None)
    hint = f"did you mean {meant}?" if meant and "Unrecognized" in wrong else "see python -m learner --help"
    return f"{wrong}: {hint}"


def _bind(address: str) -> str:
    try:
        endpoint = parse_address(address)
    except ValueError as error:
        raise Fatal(EXIT_USAGE, str(error)) from None
    if not is_loopback(endpoint):
        raise Fatal(
            EXIT_CONFIGURATION,
            f"expected --bind on this machine (tcp://127.0.0.1:PORT), got {address}: "
            "without keys, which are not in this release, other machines are refused",
        )
    return endpoint


def _earlier(path: Path) -> Config:
    """The configuration of the run in `path`."""
    file = path / "config.json"
    try:
        return Config.from_json(file.read_text())
    except (OSError, ValueError) as error:
        raise Fatal(
            EXIT_CONFIGURATION,
            f"expected the configuration of a run in {file}, got none to be read ({error})",
        ) from None


def _require_same(earlier: Config, now: Config, path: Path) -> None:
    """Only the length of a run may change when it is resumed."""
    if not earlier.plays_like(now):
        odd = _differences(dataclasses.asdict(earlier), dataclasses.asdict(now))
        raise Fatal(
            EXIT_CONFIGURATION,
            f"expected the settings of the run in {path}, got other ones ({odd}): "
            "drop them or start a new run directory",
        )


def _differences(ours: dict[str, object], theirs: dict[str, object], prefix: str = "") -> str:
    found = []
    for name, value in ours.items():
        other = theirs[name]
        if isinstance(value, dict) and isinstance(other, dict):
            inner = _differences(value, other, f"{prefix}{name}.")
            found += [inner] if inner else []
        elif value != other and name not in ("total_steps", "stop_return"):
            found.append(f"{prefix}{name} was {value}, now {other}")
    return ", ".join(found)
