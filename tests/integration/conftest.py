"""Fixtures of several files: a finished run of the command line, and a server in this process."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.keys.curve import ActorKeys
from common.protocol.sockets import Context
from tests.support.processes import Command, Run, forced_precision, free_port
from tests.support.serving import MakePeer, Peer, Served

FINISHED_STEPS = 1_000  # 4 batches of 256
_ARGUMENTS = (
    *("smoke", "--total-steps", str(FINISHED_STEPS), "--local-actors", "2", "--rnd.warmup-steps", "256"),
    *("--env.max-frames", "400"),  # games end after 100 steps
    *("--rollout.steps", "64", "--rollout.lanes", "2", "--rollout.batch-lanes", "4"),
)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Run:
    """A finished run of `python -m learner smoke`, made by the first worker; a test must not change it."""
    base = tmp_path_factory.getbasetemp()
    directory = (base if worker_id == "master" else base.parent) / "finished"
    directory.mkdir(exist_ok=True)
    run = Run(directory, free_port(), _ARGUMENTS, count=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (run.path / "summary.json").exists():
            _train(run)
    return run


def _train(run: Run) -> None:
    options = ("--run-dir", str(run.path), "--bind", f"tcp://127.0.0.1:{run.port}")
    precision = forced_precision(run.arguments[0])
    argv = (sys.executable, "-m", "learner", *run.arguments, *precision, *options)
    learner = Command.start_new(run.directory, "learner", *argv, count=True)
    try:
        assert learner.finish() == 0, learner.err.read_text()[-2000:]
    finally:
        learner.end()


@pytest.fixture
def copied_run(finished_run: Run, tmp_path: Path) -> Run:
    """A copy of the finished run that a test may change."""
    shutil.copytree(finished_run.path, tmp_path / "run")
    return Run(tmp_path, free_port(), finished_run.arguments)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server that is not started yet; its TCP ports need keys."""
    with contextlib.closing(Served(tmp_path)) as served:
        yield served


@pytest.fixture
def make_peer() -> Iterator[MakePeer]:
    """A function that makes peers; they are closed with the test."""
    with Context() as context, contextlib.ExitStack() as stack:

        def make(endpoint: str, keys: ActorKeys | None = None) -> Peer:
            return stack.enter_context(contextlib.closing(Peer(context, endpoint, keys)))

        yield make
