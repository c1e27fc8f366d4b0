"""Learners and actors as a user runs them: with the emulator, sockets and processes."""

from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from common.process.lifecycle import EXIT_TEMPORARY
from common.protocol import codec, messages
from learner.training import checkpoint
from tests.support.processes import PATIENCE_SECONDS, Command, Run, free_port, kill, wait_until
from tests.support.wire_fuzz import part

pytestmark = pytest.mark.integration

SMALL = ("--rollout.steps", "64", "--rollout.lanes", "2", "--rollout.batch-lanes", "4")  # 256 steps a batch
SMOKE = ("smoke", *SMALL, "--rnd.warmup-steps", "512")
CARTPOLE = ("cartpole", *SMALL)


def start(directory: Path, preset: tuple[str, ...], total_steps: int, local_actors: int) -> Run:
    arguments = (*preset, "--total-steps", str(total_steps), "--local-actors", str(local_actors))
    return Run(directory, free_port(), arguments, count=preset is SMOKE)


def saved_version(run: Run) -> int:
    return max((int(path.stem) for path in (run.path / "checkpoints").glob("*.safetensors")), default=-1)


@pytest.mark.slow
def test_a_killed_actor_loses_only_its_unsent_steps(tmp_path: Path) -> None:
    """After SIGKILL of one actor another takes its slot, and the run completes with balanced accounting."""
    run = start(tmp_path, SMOKE, 3_000, 2)
    with run.learner() as learner:
        wait_until(lambda: run.steps_reached(learner, 768), "768 steps")
        kill(learner.actors()[0].pid)
        assert learner.finish() == 0, learner.err.read_text()[-2000:]
    summary = run.summary()
    assert (summary["imbalance_steps"], summary["in_flight_steps"], summary["actors_seen"]) == (0, 0, 3)
    assert int(str(summary["trained_steps"])) >= 3_000
    # The kill may fall between an emulator step and its count: at most one step for each of 2 lanes.
    assert 0 <= run.counted_steps() - int(str(summary["produced_steps"])) <= 2


@pytest.mark.slow
def test_a_killed_learner_resumes_and_remote_actors_rejoin(tmp_path: Path) -> None:
    """After SIGKILL of the learner, --resume continues the counters; local actors end, remote ones rejoin."""
    run = start(tmp_path, SMOKE, 100_000, 1)
    address = f"127.0.0.1:{run.port}"
    remote = Command.start(tmp_path, "actor", "actor", "--learner", address, count=True)  # before the learner
    try:
        with run.learner() as learner:
            wait_until(lambda: run.metric("outrider_fleet_actors", learner) == 2, "both actors")
            wait_until(lambda: run.steps_reached(learner, 512), "512 steps")
            wait_until(lambda: saved_version(run) >= 1, "a checkpoint beyond the warm-up")
            local = learner.descendants()
            kill(learner.pid)
            learner.process.wait()
            running = psutil.wait_procs(local, PATIENCE_SECONDS)[1]
            assert running == [], "expected the local actors to end with the learner"
        with run.learner("--resume") as learner:
            wait_until(lambda: run.metric("outrider_fleet_actors", learner) == 2, "both actors again")
            resumed_at = run.metric("outrider_run_env_steps", learner)
            assert resumed_at >= 256
            wait_until(lambda: run.steps_reached(learner, int(resumed_at) + 512), "progress after the resume")
            learner.process.send_signal(signal.SIGTERM)
            assert learner.finish() == EXIT_TEMPORARY, learner.err.read_text()[-2000:]
        summary = run.summary()
        assert (summary["exit_reason"], summary["epoch"]) == ("stopped", 1)
        assert (summary["imbalance_steps"], summary["in_flight_steps"]) == (0, 0)
        assert int(str(summary["trained_steps"])) >= resumed_at + 512
        assert remote.process.poll() is None, "expected the remote actor to wait for a new learner"
        remote.process.send_signal(signal.SIGTERM)
        assert remote.finish() == EXIT_TEMPORARY
    finally:
        remote.end()


def test_remote_actors_are_trained_on_and_leave_with_the_run(tmp_path: Path) -> None:
    """Actors join by address alone, and exit with 0 when the run is complete."""
    run = start(tmp_path, CARTPOLE, 1_500, 0)
    with run.learner() as learner:
        argv = (sys.executable, "-m", "actor", "--learner", f"127.0.0.1:{run.port}", "--procs", "2")
        remote = Command.start_new(tmp_path, "actor", *argv)
        try:
            assert learner.finish() == 0, learner.err.read_text()[-2000:]
            assert remote.finish() == 0, remote.err.read_text()[-2000:]
        finally:
            remote.end()
    summary = run.summary()
    assert (summary["imbalance_steps"], summary["actors_seen"]) == (0, 2)
    assert int(str(summary["trained_steps"])) >= 1_500
    joined = [row for row in log_rows(remote) if row["event"] == "joined"]
    machine = {"generation": 0, "machine": socket.gethostname(), "role": "actor"}
    assert {row["slot"] for row in joined} == {0, 1}
    assert all(row.items() >= machine.items() for row in joined)
    loading = [row for row in log_rows(remote) if row["event"] == "loading_environments"]
    assert {row["slot"] for row in loading} == {0, 1}
    assert all(row.items() >= {**machine, "run": "cartpole-1"}.items() for row in loading)
    hellos = [row for row in log_rows(learner) if row["event"] == "learner_serving"]
    assert [(row["run"], row["generation"], row["role"]) for row in hellos] == [("run", 0, "learner")]


def log_rows(command: Command) -> list[dict[str, object]]:
    """The events that a command has written as JSON."""
    return [json.loads(row) for row in command.err.read_text().splitlines() if row.startswith("{")]


def test_ctrl_c_ends_a_run_with_its_checkpoint_and_its_actors(tmp_path: Path) -> None:
    """After SIGINT: exit code 0, a valid checkpoint, balanced accounting, and no remaining process."""
    run = start(tmp_path, CARTPOLE, 10_000_000, 2)
    with run.learner() as learner:
        wait_until(lambda: run.steps_reached(learner, 256), "256 steps")
        local = learner.descendants()
        learner.process.send_signal(signal.SIGINT)
        assert learner.finish() == 0, learner.err.read_text()[-2000:]
        assert psutil.wait_procs(local, PATIENCE_SECONDS)[1] == []
    summary = run.summary()
    assert (summary["exit_reason"], summary["imbalance_steps"], summary["in_flight_steps"]) == (
        "stopped",
        0,
        0,
    )
    assert checkpoint.newest(run.path / "checkpoints") is not None


Case = tuple[str, tuple[str, ...], int, str]
BAD: list[Case] = [
    ("preset", ("learner", "brekout"), 2, "did you mean breakout?"),
    ("option", ("learner", "smoke", "--ppo.epoch", "3"), 2, "did you mean --ppo.epochs?"),
    ("value", ("learner", "smoke", "--ppo.clip", "7"), 2, "ppo.clip"),
    ("negative lag", ("learner", "smoke", "--max-lag", "-1"), 2, "max-lag in [0, 64], got -1"),
    ("huge lag", ("learner", "smoke", "--max-lag", "65"), 2, "max-lag in [0, 64], got 65"),
    (
        "large chunks",
        (
            "learner",
            "pong",
            "--rollout.steps",
            "4096",
            "--rollout.lanes",
            "64",
            "--rollout.batch-lanes",
            "64",
        ),
        78,
        "expected chunks of at most 256 MiB",
    ),
    ("game", ("learner", "smoke", "--env.id", "brakeout"), 78, "breakout"),
    ("directory", ("learner", "smoke", "--run-dir", "/proc/nowhere"), 78, "--run-dir"),
    ("plain bind", ("learner", "smoke", "--bind", "tcp://0.0.0.0:5555"), 78, "127.0.0.1"),
    ("actor address", ("actor", "--learner", "nonsense"), 2, "HOST:PORT"),
    ("actor without address", ("actor",), 2, "--learner"),
]


@pytest.mark.parametrize(("argv", "code", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_gets_one_sentence(tmp_path: Path, argv: tuple[str, ...], code: int, words: str) -> None:
    """The message names the expected and the given value and a remedy; there is no traceback."""
    assert_refused(tmp_path, argv, code, words)


def assert_refused(directory: Path, argv: tuple[str, ...], code: int, words: str) -> None:
    command = Command.start(directory, "bad", *argv)
    try:
        assert command.finish() == code
    finally:
        command.end()
    lines = [line for line in command.err.read_text().splitlines() if not line.startswith("{")]
    assert len(lines) == 1, lines
    assert words in lines[0]


def test_a_port_in_use_and_a_used_directory_are_refused(tmp_path: Path) -> None:
    """A second learner on the same port or directory exits with the reason, and changes nothing."""
    run = start(tmp_path, CARTPOLE, 100_000, 0)
    with run.learner() as learner:
        wait_until(lambda: "learner_serving" in learner.err.read_text(), "the sockets")
        bind = f"tcp://127.0.0.1:{run.port}"
        other = ("learner", "cartpole", "--bind", bind, "--run-dir", str(tmp_path / "other"))
        assert_refused(tmp_path, other, 78, "--bind")
        same = ("learner", *run.arguments, "--run-dir", str(run.path), "--resume")
        assert_refused(tmp_path, same, 78, "another learner")
        assert_refused(tmp_path, same[:-1], 78, "--resume")


def test_resume_refuses_other_settings_and_survives_a_damaged_checkpoint(
    copied_run: Run, tmp_path: Path
) -> None:
    """The message names the changed setting; if every checkpoint is damaged, the error is one sentence."""
    argv = ("learner", *copied_run.arguments, "--run-dir", str(copied_run.path), "--resume")
    assert_refused(tmp_path, (*argv, "--ppo.epochs", "7"), 78, "ppo.epochs was 2, now 7")
    for path in (copied_run.path / "checkpoints").iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert_refused(tmp_path, (*argv, "--total-steps", "2000"), 78, "damaged")


def test_garbage_on_the_port_is_counted_and_ignored(tmp_path: Path) -> None:
    """The learner counts undecodable messages by reason and drops them; training continues."""
    import zmq

    run = start(tmp_path, CARTPOLE, 10_000_000, 1)
    with run.learner() as learner, zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.setsockopt(zmq.LINGER, 0)
        wait_until(lambda: "learner_serving" in learner.err.read_text(), "the sockets")
        client.connect(f"tcp://127.0.0.1:{run.port}")
        for parts in ([b"hello"], [part(4, b"\xc1")], [b"a", b"b", b"c"], [b""]):
            client.send_multipart(parts)
        name = 'outrider_wire_errors_total{reason="frames"}'
        wait_until(lambda: run.metric(name, learner) == 3, "three refused messages")
        client.send(part(1, {}, major=codec.PROTOCOL_MAJOR + 1))
        assert client.poll(int(1000 * PATIENCE_SECONDS))
        answer = codec.decode(client.recv_multipart())
        assert isinstance(answer, messages.Reject)
        assert f"expected protocol {codec.PROTOCOL_MAJOR}, got" in answer.text
        steps = int(run.metric("outrider_run_env_steps", learner))
        wait_until(lambda: run.steps_reached(learner, steps + 512), "training after the garbage")
        learner.process.send_signal(signal.SIGTERM)
        assert learner.finish() == EXIT_TEMPORARY, learner.err.read_text()[-2000:]
    assert run.summary()["imbalance_steps"] == 0


def test_three_batches_with_losses_that_are_not_finite_end_the_run_and_are_kept(tmp_path: Path) -> None:
    """The learning rate is far too large; the weights do not change."""
    huge = ("cartpole", "--ppo.learning-rate", "1e38", "--ppo.max-grad-norm", "0", "--local-actors", "1")
    run = Run(tmp_path, free_port(), huge)
    with run.learner() as learner:
        assert learner.finish() == 70
        log = learner.err.read_text()
    assert "expected finite losses" in log and "Traceback" not in log
    assert len(list((run.path / "failed").glob("*.npz"))) == 3
    assert saved_version(run) == 0


def test_overlapped_actors_are_one_version_behind_and_every_step_is_accounted_for(tmp_path: Path) -> None:
    run = Run(
        tmp_path, free_port(), ("cartpole", "--total-steps", "5000", "--max-lag", "1", "--local-actors", "2")
    )
    with run.learner() as learner:
        assert learner.finish() == 0, learner.err.read_text()[-2000:]
    summary = run.summary()
    assert summary["max_lag_seen"] == 1
    assert summary["trained_steps"] == summary["env_steps"] == 5120
    assert summary["imbalance_steps"] == summary["in_flight_steps"] == 0
