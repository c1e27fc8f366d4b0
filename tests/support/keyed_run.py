"""A learner with keys, honest actors with a key, and hostile sessions with another one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from common.keys import files
from common.keys.files import read_key_file
from tests.support.processes import Command, Run
from tests.support.session_attack import FORMS, SessionAttack

HONEST, HOSTILE = "honest", "hostile"  # the names of the keys
LOST = 'outrider_fleet_sessions_total{event="lost"}'


def make_keys(directory: Path) -> tuple[str, ...]:
    """Authorise both keys; return the arguments of the learner."""
    keys = directory / "keys"
    files.initialise(keys)
    for name in (HONEST, HOSTILE):
        files.add(keys, name)
        files.export(keys, name, key_file(directory, name))
    return ("--keys", str(keys))


def key_file(directory: Path, name: str) -> Path:
    """The key file of an actor."""
    return directory / f"{name}.json"


def start_actors(run: Run, name: str, port: int, procs: int, count: bool = False) -> Command:
    """Start honest actors that connect to `port`."""
    keys = str(key_file(run.directory, HONEST))
    argv = ("actor", "--learner", f"127.0.0.1:{port}", "--procs", str(procs), "--keys", keys)
    return Command.start(run.directory, name, *argv, count=count)


@contextlib.contextmanager
def attack(run: Run, sessions: int) -> Iterator[list[SessionAttack]]:
    """Attack the learner with hostile sessions during the block; each begins with another form."""
    keys = read_key_file(key_file(run.directory, HOSTILE))
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(SessionAttack(f"tcp://127.0.0.1:{run.port}", keys, number % len(FORMS)))
            for number in range(sessions)
        ]
