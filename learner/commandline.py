"""Parses the command line of `python -m learner`; an error is one sentence."""

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
from common.keys.files import KeyDirectory, KeysError
from common.metrics import DEFAULT_HOST
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_USAGE, Fatal
from common.protocol.sockets import is_loopback, parse_address
from learner.presets import DEFAULT_PRESET, PRESETS
from learner.runs import match_precision, read_config, settings
from learner.server.rate_limit import SESSIONS_PER_KEY

_DEVICES = ("auto", "cpu", "cuda")
_DEFAULT_BIND = "tcp://127.0.0.1:5555"


@dataclass(frozen=True, slots=True)
class Options:
    """The options of this process and machine, which are not settings of the run."""

    run_dir: Path
    bind: str
    local_actors: int
    resume: bool
    device: str
    keys: KeyDirectory | None = None
    insecure_plaintext: bool = False  # whether other machines are served without keys
    metrics_host: str = DEFAULT_HOST
    sessions_per_key: int = SESSIONS_PER_KEY


@dataclass(frozen=True, kw_only=True)
class _Process:
    """The options of this process and machine, as the user gives them."""

    run_dir: Path | None = None
    """Run directory; default runs/PRESET-SEED-TIME. With --seeds, the parent of seed-1, seed-2 ..."""
    seeds: str | None = None
    """Instead of --seed: one run for each seed of a list such as 1,2,3, one after the other."""
    bind: str = _DEFAULT_BIND
    """Address of the data port; weights are served on the next port."""
    keys: Path | None = None
    """Key directory (python -m common.keys) of authorised actors; required unless --bind is loopback."""
    insecure_plaintext: bool = False
    """Serve other machines without keys: any peer may join, read the traffic and do damage."""
    local_actors: int = 0
    """Number of actor processes that the learner starts on this machine."""
    resume: bool = False
    """Continue from the newest intact checkpoint in --run-dir, or start there if there is none."""
    device: str = "auto"
    """Device to train on: auto, cpu or cuda."""
    metrics_host: str = DEFAULT_HOST
    """Address on which metrics and the live page are served; 0.0.0.0 for all."""
    sessions_per_key: int = SESSIONS_PER_KEY
    """Maximum number of sessions of one key at a time; further sessions wait."""


@dataclass(frozen=True)
class _CommandLine:
    """Every option; the names of the two parts are no prefixes."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    process: Annotated[_Process, tyro.conf.arg(name="")]


def parse(argv: list[str]) -> list[tuple[Config, Options]]:
    """Parse the command line, and read the configurations of resumed runs.

    Returns:
        The runs in their order: one, or one for each seed of --seeds.

    Raises:
        Fatal: an option is wrong (exit code 2), or a resumed run or a key directory does not fit (78).
    """
    preset = argv[0] if argv and not argv[0].startswith("-") else None
    flags = argv if preset is None else argv[1:]
    _, process = _parse(_preset(preset or DEFAULT_PRESET), flags)
    if process.seeds is None:
        return [_run(preset, flags)]
    if any(flag.partition("=")[0] == "--seed" for flag in flags):
        raise Fatal(EXIT_USAGE, "expected --seed or --seeds, got both: remove one of them")
    runs = [_run(preset, [*flags, "--seed", str(seed)]) for seed in _seeds(process.seeds)]
    first, options = runs[0]
    for config, _ in runs[1:]:  # they differ if only some of the directories exist
        _require_same(dataclasses.replace(first, seed=config.seed), config, options.run_dir)
    return runs


def _run(preset: str | None, flags: list[str]) -> tuple[Config, Options]:
    """Return one run, with its earlier settings if it is resumed."""
    config, process = _parse(_preset(preset or DEFAULT_PRESET), flags)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = process.run_dir or Path("runs") / f"{config.preset}-{config.seed}-{stamp}"
    if process.run_dir is not None and process.seeds is not None:
        path = process.run_dir / f"seed-{config.seed}"
    if process.local_actors < 0:
        raise Fatal(EXIT_USAGE, f"expected --local-actors of at least 0, got {process.local_actors}")
    if process.sessions_per_key < 1:
        raise Fatal(EXIT_USAGE, f"expected --sessions-per-key of at least 1, got {process.sessions_per_key}")
    if process.device not in _DEVICES:
        raise Fatal(EXIT_USAGE, f"expected --device {' or '.join(_DEVICES)}, got {process.device!r}")
    if process.resume and (path / "config.json").exists():
        earlier = read_config(path)
        # Another preset replaces the run's settings. Otherwise the flags apply to the run's own settings.
        config, _ = _parse(earlier if preset in (None, earlier.preset) else _preset(preset), flags)
        _require_same(earlier, config, path)
        if config.precision == "auto":  # the run keeps its resolved precision
            config = dataclasses.replace(config, precision=earlier.precision)
    endpoint = _bind(process)
    return config, Options(
        path,
        endpoint,
        process.local_actors,
        process.resume,
        process.device,
        _keys(process),
        process.insecure_plaintext and not is_loopback(endpoint),
        process.metrics_host,
        process.sessions_per_key,
    )


def _seeds(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isdecimal() for word in words) or len(set(map(int, words))) < len(words):
        raise Fatal(EXIT_USAGE, f"expected --seeds of different whole numbers, got {text!r}: write 1,2,3")
    return [int(word) for word in words]


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
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            line = tyro.cli(
                _CommandLine,
                args=flags,
                default=_CommandLine(default, _Process()),
                prog="python -m learner",
                description=description,
            )
    except SystemExit as error:  # also after --help, with code 0
        if error.code:
            raise Fatal(EXIT_USAGE, _sentence(message.getvalue())) from None
        raise
    except ValueError as error:  # from the outermost dataclass; tyro does not catch it
        raise Fatal(EXIT_USAGE, f"{error}: see python -m learner --help") from None
    return line.config, line.process


def _sentence(box: str) -> str:
    """Return tyro's message, which is framed, as one sentence, with the nearest option if it names one."""
    lines = [line.strip(" \u2502") for line in box.splitlines() if line.startswith("\u2502")]
    problem = " ".join(itertools.takewhile(lambda line: not line.startswith("\u2500"), lines))
    nearest = next((line.split()[0] for line in lines if line.startswith("--")), None)
    hint = "see python -m learner --help"
    if nearest and "Unrecognized" in problem:
        hint = f"did you mean {nearest}?"
    return f"{problem}: {hint}"


def _keys(process: _Process) -> KeyDirectory | None:
    if process.keys is None:
        return None
    if process.insecure_plaintext:
        raise Fatal(EXIT_USAGE, "expected --keys or --insecure-plaintext, got both: remove one of them")
    try:
        return KeyDirectory.open(process.keys)
    except KeysError as error:
        raise Fatal(EXIT_CONFIGURATION, str(error)) from None


def _bind(process: _Process) -> str:
    try:
        endpoint = parse_address(process.bind)
    except ValueError as error:
        raise Fatal(EXIT_USAGE, str(error)) from None
    if not is_loopback(endpoint) and process.keys is None and not process.insecure_plaintext:
        raise Fatal(
            EXIT_CONFIGURATION,
            f"expected --keys with a --bind that other machines can reach, got {process.bind} alone: "
            "create keys (python -m common.keys init) and add --keys keys, or bind to tcp://127.0.0.1:PORT",
        )
    return endpoint


def _require_same(earlier: Config, now: Config, path: Path) -> None:
    """Raise Fatal if a resumed run changes more than its length; "auto" equals its resolved value."""
    now = match_precision(now, earlier)
    if not earlier.equal_except_length(now):
        given = settings(now)
        changed = [
            f"{name} was {value}, now {given[name]}"
            for name, value in settings(earlier).items()
            if value != given[name] and name not in ("total_steps", "stop_return")
        ]
        raise Fatal(
            EXIT_CONFIGURATION,
            f"expected the settings of the run in {path}, got others ({', '.join(changed)}): "
            "remove them or start a new run directory",
        )
