"""Floods of false steps and messages of very many parts, beside honest actors of a real learner."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.keys import files
from common.keys.files import read_key_file
from common.process.lifecycle import EXIT_TEMPORARY
from common.protocol import codec
from common.protocol import messages as m
from common.protocol.sockets import Context
from learner.presets import PRESETS
from learner.server.rate_limit import VIOLATIONS_PER_BAN
from tests.support.processes import Command, Run, free_port, wait_until
from tests.support.serving import Peer

pytestmark = pytest.mark.integration

CHUNK_STEPS = PRESETS["cartpole"].rollout.chunk_steps
PARTS, LARGE_MESSAGES = 12_000, 2  # with keys 0.8 MB, within the unread bytes that a connection may have
FLOODS, FLOOD_MESSAGES = 2, 400
STEPS = 1_000
TASK = "tests.support.counted:Counted-v0"


class HostilePeer(Peer):
    """A session that notices its ban."""

    banned = False

    def on_message(self, message: m.Message) -> None:
        super().on_message(message)
        self.banned = self.banned or (isinstance(message, m.Reject) and message.code == "lost")

    def await_ban(self) -> None:
        """Send heartbeats until the ban, and read what arrives."""

        def read() -> None:
            self.step(0)
            self.receive(0.1)

        wait_until(lambda: self.banned, "a ban", between=read)

    def flood(self) -> None:
        """Send skips and chunks of an earlier generation, each with the steps of one chunk."""
        for number in range(FLOOD_MESSAGES):
            offset = number * CHUNK_STEPS
            facts: dict[str, Any] = {
                "sid": self.sid,
                "generation": self.generation - 1,
                "offset": offset,
                "steps": CHUNK_STEPS,
                "produced": offset + CHUNK_STEPS,
            }
            if number % 2:
                self.send(codec.Packed(0, 0, b"").message(version=0, fresh=True, **facts))
            else:
                self.send(m.Skip(reason="old_generation", **facts))

    def send_many_parts(self) -> None:
        """Send messages of very many parts without bytes."""
        for _ in range(LARGE_MESSAGES):
            self.send_parts([b""] * PARTS)


@contextlib.contextmanager
def honest_actors(run: Run, key_file: Path) -> Iterator[Command]:
    """Two actors of one key."""
    argv = ("actor", "--learner", f"127.0.0.1:{run.port}", "--keys", str(key_file), "--procs", "2")
    module = ("--allow-module", TASK.partition(":")[0])
    actors = Command.start(run.directory, "actors", *argv, *module, environment=run.environment)
    try:
        yield actors
    finally:
        actors.end()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A learner with keys for honest and hostile peers, whose actors count their steps."""
    keys, steps = tmp_path / "keys", tmp_path / "steps"
    files.initialise(keys)
    for name in ("honest", "hostile"):
        files.add(keys, name)
        files.export(keys, name, tmp_path / f"{name}.json")
    steps.mkdir()
    task = ("cartpole", "--env.id", TASK, "--total-steps", "1000000000")
    run = Run(tmp_path, free_port(), (*task, "--keys", str(keys)))
    run.environment["STEP_COUNT_DIR"] = str(steps)
    return run


def attack(run: Run) -> None:
    """Flood from several connections in turn, and send messages of many parts from another one."""
    keys, endpoint = read_key_file(run.directory / "hostile.json"), f"tcp://127.0.0.1:{run.port}"
    attacks = [HostilePeer.flood] * FLOODS + [HostilePeer.send_many_parts]
    with Context() as context:
        for send in attacks:
            with contextlib.closing(HostilePeer(context, endpoint, keys)) as peer:
                peer.join()
                send(peer)
                peer.await_ban()


def rows(command: Command, event: str) -> list[dict[str, Any]]:
    """The rows of the log with an event."""
    lines = [line for line in command.err.read_text().splitlines() if line.startswith("{")]
    return [row for row in map(json.loads, lines) if row["event"] == event]


def test_a_hostile_key_is_named_and_banned_and_honest_actors_train_on(run: Run) -> None:
    """The ledger has no step of the attacker but those of one chunk for each of its sessions."""
    sessions = FLOODS + 1
    violations = 'outrider_wire_violations_total{key="hostile"}'
    with run.learner() as learner, honest_actors(run, run.directory / "honest.json") as actors:
        wait_until(lambda: run.steps_reached(learner, 1), "training")
        attack(run)
        bans = sessions * VIOLATIONS_PER_BAN
        wait_until(lambda: run.metric(violations, learner) >= bans, f"{bans} violations")
        trained = int(run.metric("outrider_run_env_steps", learner))
        wait_until(lambda: run.steps_reached(learner, trained + STEPS), "training after the attack")
        assert run.sample('outrider_wire_violations_total{key="honest"}', learner) is None
        for command in (actors, learner):
            command.process.terminate()
            assert command.finish() == EXIT_TEMPORARY, command.err.read_text()[-2000:]
    refused, banned = rows(learner, "message_refused"), rows(learner, "peer_banned")
    assert {row["key"] for row in (*refused, *banned)} == {"hostile"}
    assert len(banned) == sessions
    (large,) = [row for row in refused if row["reason"] == "frames"]
    assert large["text"] == f"expected 1 or 2 parts, got {PARTS}"
    assert rows(learner, "thread_stuck") == []
    assert "Traceback" not in learner.err.read_text()
    summary = run.summary()
    assert (summary["exit_reason"], summary["imbalance_steps"], summary["in_flight_steps"]) == (
        "stopped",
        0,
        0,
    )
    false_steps = int(str(summary["produced_steps"])) - run.counted_steps()
    assert 0 <= false_steps <= sessions * CHUNK_STEPS
