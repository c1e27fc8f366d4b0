"""Reads the configurations of runs, groups runs that differ in their seed alone, and reports file errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from common.config import Config
from common.process.lifecycle import EXIT_CONFIGURATION, Fatal


class Configured(Protocol):
    """A run with a configuration."""

    @property
    def config(self) -> Config:
        """The configuration of the run."""


R = TypeVar("R", bound=Configured)


def read_config(path: Path) -> Config:
    """Return the configuration of the run in directory `path`.

    Raises:
        Fatal: it is missing or damaged.
    """
    file = path / "config.json"
    try:
        return Config.from_json(file.read_text())
    except (OSError, ValueError) as error:
        raise unreadable_file("the configuration of a run", file, error) from None


def unreadable_file(what: str, file: Path, error: Exception) -> Fatal:
    """Return the error for a missing or damaged file of a run."""
    reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    return Fatal(
        EXIT_CONFIGURATION,
        f"expected {what} in {file}, got an unreadable file ({reason}): name the directory of a run",
    )


def unwritable_file(file: Path, error: OSError, advice: str) -> Fatal:
    """Return the error for a file that cannot be written."""
    reason = error.strerror or str(error).splitlines()[0]
    return Fatal(EXIT_CONFIGURATION, f"expected to write {file}, got an error ({reason}): {advice}")


def settings(config: Config) -> dict[str, object]:
    """Return every setting by its full name, such as "ppo.clip"."""
    return _flat(dataclasses.asdict(config))


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def match_precision(config: Config, other: Config) -> Config:
    """Return `config`, with the precision of `other` if either is "auto", which equals any resolved one."""
    if "auto" in (config.precision, other.precision):
        return dataclasses.replace(config, precision=other.precision)
    return config


def group_by_settings(runs: Sequence[R]) -> list[list[R]]:
    """Group runs that are equal except for seed and length; a group holds each seed once.

    Runs with different resolved precisions are separate, because a run directory does not tell whether the
    precision was requested.
    """
    groups: list[list[R]] = []
    for run in runs:
        for group in groups:
            config = group[0].config
            same = dataclasses.replace(run.config, seed=config.seed).equal_except_length(config)
            if same and run.config.seed not in {other.config.seed for other in group}:
                group.append(run)
                break
        else:
            groups.append([run])
    return groups
