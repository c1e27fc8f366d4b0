"""A learner and its actors under faults, and a comparison of the ledger with independent counts."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from common.process.lifecycle import EXIT_TEMPORARY
from learner import verify_ledger
from learner.training import checkpoint
from tests.support.processes import PATIENCE_SECONDS, Command, Run, free_port, wait_until

LANES, STEPS, BATCH_LANES = 2, 16, 4
CHUNK_STEPS = LANES * STEPS
_TASK_MODULE = "tests.support.counted"
COUNTED = (
    "cartpole",
    *("--env.id", f"{_TASK_MODULE}:Counted-v0", "--ppo.epochs", "2", "--total-steps", "1000000000"),
    *(
        "--rollout.steps",
        str(STEPS),
        "--rollout.lanes",
        str(LANES),
        "--rollout.batch-lanes",
        str(BATCH_LANES),
    ),
)
START_SECONDS = 180.0  # the longest wait for anything that includes a start, on a busy machine
STRAGGLER_SECONDS = 2.0  # the minimum of the learner's bound, which applies to chunks as short as these
BACK_SECONDS = 15.0  # the longest time from the end of a fault to further steps
_SAMPLE_SECONDS = 1.0
_SETTLING_SAMPLES = 120  # samples of the start and the first updates, which are not part of a slope
Figures = dict[str, Any]
Row = tuple[float, int, int, int]  # seconds, bytes, descriptors, threads


@dataclass
class Sampler:
    """Samples memory, descriptors and threads of a learner, and its exported imbalance, once a second."""

    processes: list[list[Row]] = field(default_factory=list)  # the samples of each learner process
    imbalances: set[float] = field(default_factory=set)

    def slopes(self) -> dict[str, float]:
        """The growth per minute of bytes, descriptors and threads of a process after its start."""
        names = ("bytes", "descriptors", "threads")
        samples = [np.array(rows, float) for rows in self.processes if len(rows) >= 1.5 * _SETTLING_SAMPLES]
        parts = [rows[_SETTLING_SAMPLES:] - rows[_SETTLING_SAMPLES:].mean(axis=0) for rows in samples]
        if not parts:
            return dict.fromkeys(names, 0.0)
        rows = np.concatenate(parts)
        minutes = rows[:, 0] / 60
        return {name: float(minutes @ rows[:, i + 1] / (minutes @ minutes)) for i, name in enumerate(names)}

    def megabytes(self) -> list[list[int]]:
        """The memory of each process: the median of every minute, in MiB."""
        minutes = [[rows[at : at + 60] for at in range(0, len(rows), 60)] for rows in self.processes]
        return [
            [round(statistics.median(row[1] for row in minute) / 2**20) for minute in one] for one in minutes
        ]

    @contextlib.contextmanager
    def of(self, run: Run, learner: Command) -> Iterator[None]:
        """Sample the learner's process during the block."""
        over, rows = threading.Event(), list[Row]()
        self.processes.append(rows)

        def sample() -> None:
            process = psutil.Process(learner.pid)
            while not over.wait(_SAMPLE_SECONDS):
                with contextlib.suppress(psutil.Error):
                    row = (process.memory_info().rss, process.num_fds(), process.num_threads())
                    rows.append((time.monotonic(), *row))
                if process.is_running() and process.status() != psutil.STATUS_STOPPED:
                    name = "outrider_learner_accounting_imbalance_steps"
                    self.imbalances.add(run.metric(name, learner))

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@dataclass
class FaultHarness:
    """A run of the counted task with remote actors, and a record of what its learner trained on."""

    directory: Path
    seed: int = 0
    arguments: tuple[str, ...] = COUNTED
    environment: dict[str, str] = field(default_factory=dict)
    sampler: Sampler = field(default_factory=Sampler)

    def __post_init__(self) -> None:
        steps = self.directory / "steps"
        steps.mkdir(parents=True, exist_ok=True)
        self.trained = self.directory / "trained.jsonl"
        self.trained.touch()
        counting = {"STEP_COUNT_DIR": str(steps)}
        environment = counting | {"TRAINED_FILE": str(self.trained)} | self.environment
        self.run = Run(
            self.directory,
            free_port(),
            self.arguments,
            module="tests.support.witness",
            environment=environment,
        )
        self._counting, self._actors = counting, 0

    @contextlib.contextmanager
    def learner(self, *more: str) -> Iterator[Command]:
        """Run a learner that records what it trains on; sample it while it runs."""
        with self.run.learner(*more) as learner, self.sampler.of(self.run, learner):
            yield learner

    @contextlib.contextmanager
    def actor(self, port: int | None = None, procs: int = 1) -> Iterator[Command]:
        """Run remote actors that connect to the learner's port, or to a proxy's."""
        self._actors += 1
        address = f"127.0.0.1:{port or self.run.port}"
        argv = ("actor", "--learner", address, "--procs", str(procs), "--allow-module", _TASK_MODULE)
        name = f"actor{self._actors}"
        command = Command.start(self.directory, name, *argv, environment=self._counting)
        try:
            yield command
        finally:
            command.end()

    def made_by(self, command: Command) -> int:
        """The steps of the process and its children so far, by the independent counter."""
        pids = {command.pid, *(child.pid for child in command.descendants())}
        return sum(steps for pid, steps in self.run.counted_by_process().items() if pid in pids)

    def updates(self) -> list[dict[str, Any]]:
        """One row for each update, with the steps that it trained on, in order of time."""
        rows = self.trained.read_text().splitlines()
        return [json.loads(row) for row in rows if row.endswith("}")]

    def timeline(self) -> list[dict[str, Any]]:
        """The updates that remain when those that a resume rolled back are removed."""
        kept: list[dict[str, Any]] = []
        for row in self.updates():
            if kept and row["generation"] != kept[-1]["generation"]:
                kept = [other for other in kept if other["version"] < row["version"]]
            kept.append(row)
        return kept

    def wait_updates(self, count: int, seconds: float = START_SECONDS) -> float:
        """Wait for `count` more updates; return the time that they took, in seconds."""
        target = len(self.updates()) + count
        return wait_until(lambda: len(self.updates()) >= target, f"{count} more updates", seconds)

    def wait_generation(self) -> None:
        """Wait for the first update of another learner process."""
        before = len({row["generation"] for row in self.updates()})
        wait_until(
            lambda: len({row["generation"] for row in self.updates()}) > before, "updates", START_SECONDS
        )

    def wait_steps(self, *commands: Command, more: int = 2 * CHUNK_STEPS) -> float:
        """Wait until each command has made over `more` further steps; return the time, in seconds.

        The default is more than a session's credit at one time, so the command must receive new credit.
        """
        targets = [self.made_by(command) + more for command in commands]
        return wait_until(
            lambda: all(self.made_by(one) > steps for one, steps in zip(commands, targets, strict=True)),
            f"{more} more steps of each of {len(commands)} commands",
            START_SECONDS,
        )

    def longest_gap(self, since: int) -> tuple[float, float]:
        """The longest time between two updates after update number `since`, and its bound, in seconds.

        After that bound, the learner gives the grant of a straggler to another actor.
        """
        times = [row["time"] for row in self.updates()[since:]]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        return max(gaps), STRAGGLER_SECONDS + max(1.0, 10 * statistics.median(gaps))

    def figures(self, unreported_steps: int = 0) -> dict[str, Any]:
        """The ledger and the independent counts after the learner ended; they must agree.

        Args:
            unreported_steps: the maximum number of steps that killed processes made and did not report.
        """
        summary = self.run.summary()
        saved = checkpoint.newest(self.run.path / "checkpoints")
        assert saved is not None
        assert verify_ledger.verify(saved) == []
        kept = self.timeline()
        assert [row["version"] for row in kept] == list(range(len(kept))), "a version missing or twice"
        ranges = sorted(lane for row in kept for lane in row["lanes"])
        assert all(whole for *_, whole in ranges), "a chunk with steps of several lanes, or with holes"
        twice = sum(
            max(0, one[2] - other[1] + 1) for one, other in itertools.pairwise(ranges) if one[0] == other[0]
        )
        seen = sum(last - first + 1 for _, first, last, _ in ranges)
        counted, produced = self.run.counted_steps(), int(str(summary["produced_steps"]))
        found = {
            "counted_steps": counted,
            "produced_steps": produced,
            "unreported_steps": counted - produced,
            "trained_steps": summary["trained_steps"],
            "trained_steps_witnessed": seen,
            "trained_twice_steps": twice,
            "dropped_steps": summary["dropped_steps"],
            "in_flight_steps": summary["in_flight_steps"],
            "imbalance_steps": summary["imbalance_steps"],
            "imbalances_exported": sorted(self.sampler.imbalances),
            "sessions": summary["actors_seen"],
            "updates": len(kept),
            "slopes_per_minute": self.sampler.slopes(),
        }
        assert found["trained_twice_steps"] == 0, found
        assert found["trained_steps_witnessed"] == found["trained_steps"], found
        assert (found["imbalance_steps"], found["in_flight_steps"]) == (0, 0), found
        assert found["imbalances_exported"] == [0.0], found
        assert 0 <= found["unreported_steps"] <= unreported_steps, found
        return found


def stop(command: Command, seconds: float = PATIENCE_SECONDS) -> None:
    """Send SIGTERM and require the exit code of an interrupted run."""
    command.process.send_signal(signal.SIGTERM)
    assert command.finish(seconds) == EXIT_TEMPORARY, command.err.read_text()[-3000:]


@contextlib.contextmanager
def frozen(*processes: psutil.Process) -> Iterator[None]:
    """Stop the processes with SIGSTOP during the block."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
