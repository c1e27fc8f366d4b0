"""What a hostile learner can make an actor do, over real sockets."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from common import envs
from common.config import EnvConfig, RNDConfig
from common.model.networks import make_policy
from common.process.lifecycle import EXIT_TEMPORARY
from common.protocol import messages as m
from learner.presets import PRESETS
from tests.support.hostile_learner import HostileLearner
from tests.support.processes import PATIENCE_SECONDS, ROOT, wait_until

pytestmark = pytest.mark.integration

SECRET = b"a-secret-of-this-machine"
PLAIN = replace(PRESETS["cartpole"], rnd=RNDConfig(enabled=False, warmup_steps=0), precision="float32")
MODULE = "trap"  # a module in the actor's working directory


def cartpole_weights(**changes: torch.Tensor) -> bytes:
    """The bundle of a CartPole policy without a bonus."""
    policy = make_policy(envs.spaces(PLAIN.env), PLAIN.network, seed=1).state_dict()
    tensors = {f"policy.{name}": value.contiguous() for name, value in policy.items()}
    statistics = {"mean": torch.zeros(4), "std": torch.ones(4)}
    return safetensors.torch.save({**tensors, **statistics, **changes})


@contextlib.contextmanager
def actor_of(learner: HostileLearner, directory: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """An actor that a user starts in a directory with a secret file and a secret variable."""
    (directory / "secret.txt").write_bytes(SECRET)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SECRET": SECRET.decode()}
    argv = [sys.executable, "-m", "actor", "--learner", f"127.0.0.1:{learner.port}", *more]
    process = subprocess.Popen(argv, cwd=directory, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def last_line(actor: subprocess.Popen[str], code: int) -> str:
    """The last line that the actor writes before it ends with this exit code."""
    _, errors = actor.communicate(timeout=PATIENCE_SECONDS)
    assert actor.returncode == code, errors[-2000:]
    assert "Traceback" not in errors
    return errors.splitlines()[-1]


@pytest.mark.parametrize("more", [(), ("--procs", "2"), ("--allow-module", "other")], ids=str)
def test_a_learner_cannot_make_an_actor_import_a_module(more: tuple[str, ...], tmp_path: Path) -> None:
    trap = tmp_path / f"{MODULE}.py"
    trap.write_text("import pathlib\npathlib.Path('imported').touch()\n")
    config = replace(PLAIN, env=EnvConfig(id=f"{MODULE}:CartPole-v1"))
    with HostileLearner(config.to_json().encode()) as learner, actor_of(learner, tmp_path, *more) as actor:
        line = last_line(actor, 78)
    assert ("--procs" in more) or f"start the actor with --allow-module {MODULE}" in line
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("more", [(), ("--procs", "2")], ids=str)
def test_an_actor_plays_an_environment_of_a_module_that_its_user_allows(
    more: tuple[str, ...], tmp_path: Path
) -> None:
    """It sends chunks; and nothing that it sends has the machine's variables or files."""
    (tmp_path / f"{MODULE}.py").write_text("import pathlib\npathlib.Path('imported').touch()\n")
    config = replace(PLAIN, env=EnvConfig(id=f"{MODULE}:CartPole-v1"))
    options = ("--allow-module", "other", "--allow-module", MODULE, *more)
    with (
        HostileLearner(config.to_json().encode(), cartpole_weights()) as learner,
        actor_of(learner, tmp_path, *options) as actor,
    ):
        wait_until(lambda: m.ChunkMessage in learner.kinds, "a chunk")
        actor.send_signal(signal.SIGTERM)
        last_line(actor, EXIT_TEMPORARY)
    assert (tmp_path / "imported").exists()
    assert learner.kinds <= {m.Hello, m.WeightsRequest, m.ChunkMessage, m.Skip, m.Heartbeat, m.Bye}
    assert not any(SECRET in part for part in learner.parts)


def test_an_actor_stops_on_a_signal_while_messages_arrive_without_end(tmp_path: Path) -> None:
    """The learner requests everything again and again."""
    flood = (m.Resend(offset=0), m.HelloRequired(generation=0), m.Ack(generation=7, **NOTHING)) * 20
    with (
        HostileLearner(PLAIN.to_json().encode(), cartpole_weights(), flood) as learner,
        actor_of(learner, tmp_path) as actor,
    ):
        wait_until(lambda: learner.flooded > 10_000, "a flood")
        actor.send_signal(signal.SIGTERM)
        last_line(actor, EXIT_TEMPORARY)


NOTHING = {"received": 0, "settled": 0, "credit": 0, "version": 0}

WRONG_WEIGHTS = {
    "not tensors": b"\xff" * 100,
    "statistics that broadcast": cartpole_weights(mean=torch.zeros(1_000, 1)),
    "a layer of another shape": cartpole_weights(**{"policy.actor.0.weight": torch.zeros(64, 5)}),
    "no statistics": safetensors.torch.save({"policy.none": torch.zeros(1)}),
}


@pytest.mark.parametrize("weights", WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS)
def test_weights_of_other_networks_end_an_actor_with_one_sentence(weights: bytes, tmp_path: Path) -> None:
    with (
        HostileLearner(PLAIN.to_json().encode(), weights) as learner,
        actor_of(learner, tmp_path) as actor,
    ):
        assert "expected the weights of this run's networks, got others" in last_line(actor, 75)
