"""Run directories as plots, tables and a resumed run read them: their settings, and which belong together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from common.config import Config
from common.process.lifecycle import EXIT_CONFIGURATION, Fatal


class Configured(Protocol):
    """A run, whatever else is known of it."""

    @property
    def config(self) -> Config:
        """Its configuration."""


R = TypeVar("R", bound=Configured)


def read_config(path: Path) -> Config:
    """The configuration of the run in directory `path`.

    Raises:
        Fatal: there is none, or it is damaged.
    """
    file = path / "config.json"
    try:
        return Config.from_json(file.read_text())
    except (OSError, ValueError) as error:
        raise unusable("the configuration of a run", file, error) from None


def unusable(what: str, file: Path, error: Exception) -> Fatal:
    """The complaint about a file of a run that is missing or damaged."""
    reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    return Fatal(
        EXIT_CONFIGURATION,
        f"expected {what} in {file}, got nothing readable ({reason}): name the directory of a run",
    )


def settings(config: Config) -> dict[str, object]:
    """Every setting under its full name, like "ppo.clip"."""
    return _flat(dataclasses.asdict(config))


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def match_precision(config: Config, other: Config) -> Config:
    """`config` with the precision of `other` if either is "auto", which agrees with each resolved value."""
    if "auto" in (config.precision, other.precision):
        return dataclasses.replace(config, precision=other.precision)
    return config


def groups(runs: Sequence[R]) -> list[list[R]]:
    """Runs of the same settings: equal but for seed and length, and no seed twice in a group.

    Runs with different resolved precisions are separate: a directory does not tell whether it was asked for.
    """
    found: list[list[R]] = []
    for run in runs:
        for group in found:
            config = group[0].config
            same = dataclasses.replace(run.config, seed=config.seed).plays_like(config)
            if same and run.config.seed not in {other.config.seed for other in group}:
                group.append(run)
                break
        else:
            found.append([run])
    return found
