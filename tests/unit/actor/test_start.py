"""What an actor imports, loads and resets before its first chunk."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import ale_py
import numpy as np
import numpy.typing as npt
import pytest

from actor.metrics import PHASES
from actor.service import Actor, PlayingState
from common.config import Config, EnvConfig, PPOConfig, RNDConfig, RolloutConfig
from common.phase_timer import PhaseTimer
from common.protocol.chunk import WARMUP_VERSION
from common.rng import RngKey
from common.spaces import Spaces
from tests.support.probe_envs import Array, Loop, Probe
from tests.support.processes import PATIENCE_SECONDS

T, B = 4, 2
# Modules of the learner alone, and PyTorch's compiler, whose requirements are not in an actor's image.
HEAVY = {"matplotlib", "tensorboard", "tyro", "imageio", "torch._dynamo", "torch._inductor"}

PLAY = """
import sys
from actor import build
from common.model.bonus import BonusModel
from actor.metrics import PHASES
from common.phase_timer import PhaseTimer
from actor.rollout import Rollout
from common import envs
from common.config import Config, EnvConfig, RolloutConfig
from common.model.networks import make_target
from common.model.policy import Policy
from common.protocol import codec
from common.rng import RngKey

rollout = RolloutConfig(steps=4, lanes=2, batch_lanes=2)
config = Config(precision="bfloat16", env=EnvConfig(id="CartPole-v1"), rollout=rollout)
env = envs.make(config.env, 2)
bonus_model = BonusModel(env.spaces, config, make_target(env.spaces, config.network, 1).state_dict())
rollout = Rollout(env, env.spaces, config.rollout, PhaseTimer(PHASES))
rollout.reset(RngKey(1, 0, 0, False))
chunk = rollout.collect(Policy(env.spaces, config), lambda: True)
chunk.bonus[:] = bonus_model.compute_bonus(chunk.observation[1:])
codec.pack(chunk)
print(*sys.modules)
"""


def test_playing_imports_no_compiler_and_nothing_of_the_learner() -> None:
    """Such imports cost every actor of a fleet processor time and memory."""
    done = subprocess.run(
        [sys.executable, "-c", PLAY], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    )
    modules = set(done.stdout.split())
    assert "actor.service" in modules
    assert not modules & {*HEAVY, "learner"}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[PlayingState, list[int]]]:
    """The playing state of Pong, and an entry for each emulator that was made for it."""
    made: list[int] = []

    class Counted(ale_py.ALEInterface):
        def __init__(self) -> None:
            made.append(1)
            super().__init__()

    monkeypatch.setattr(ale_py, "ALEInterface", Counted)
    config = Config(
        precision="float32",
        env=EnvConfig(id="pong"),
        rollout=RolloutConfig(steps=T, lanes=B, batch_lanes=B),
        ppo=PPOConfig(minibatches=1),
        rnd=RNDConfig(enabled=False, warmup_steps=0),
    )
    nothing = SimpleNamespace()
    actor = Actor(nothing, nothing, nothing, threading.Event(), PhaseTimer(PHASES), lambda stats: None)  # type: ignore[arg-type]
    state = actor._build(SimpleNamespace(body=config.to_json().encode()))  # type: ignore[arg-type]
    assert state is not None
    yield state, made
    state.rollout._env.close()


def test_a_game_is_loaded_once_to_know_its_spaces_and_then_once_per_lane(
    built: tuple[PlayingState, list[int]],
) -> None:
    """Loading costs as much as a thousand steps."""
    state, made = built
    assert state.spaces == Spaces((84, 84), 4, 6)
    assert len(made) == 1
    state.rollout.reset(RngKey(1, 0, 0, warmup=False))
    assert len(made) == 1 + B


@dataclass
class Seeded(Probe):
    """Records the seeds of each reset."""

    resets: list[list[int]] = field(default_factory=list)

    def reset(self, seeds: npt.NDArray[np.int64]) -> Array:
        self.resets.append(seeds.tolist())
        return super().reset(seeds)


@pytest.mark.parametrize("warmup_chunks", [0, 1, 3])
def test_lanes_are_seeded_once_for_random_play_and_once_for_training(warmup_chunks: int) -> None:
    """The emulator loads its game again for every seed."""
    config = Config(
        precision="float32",
        total_steps=3 * T * B,
        rollout=RolloutConfig(steps=T, lanes=B, batch_lanes=B),
        ppo=PPOConfig(minibatches=1),
        rnd=RNDConfig(warmup_steps=warmup_chunks * T * B),
    )
    probe = Seeded(3, lambda state, action: np.ones(len(state)))
    loop = Loop(probe, config)
    assert len(probe.resets) == min(warmup_chunks, 1)
    loop.run()
    assert len(probe.resets) == 1 + min(warmup_chunks, 1)
    assert len(np.unique(probe.resets)) == B * len(probe.resets)
    assert loop.version > WARMUP_VERSION
    assert loop.actor.phases.seconds["load"] > 0.0


def test_the_console_script_ends_by_the_same_path_as_the_module() -> None:
    """Both skip PyTorch's teardown and have the same exit code."""
    usage = ["--learner", "nowhere"]
    script = "import atexit, sys; from actor.__main__ import main; atexit.register(print, 'teardown')"
    ended = [
        subprocess.run([sys.executable, *start, *usage], capture_output=True, text=True, timeout=60)
        for start in (["-m", "actor"], ["-c", f"{script}; sys.exit(main())"])
    ]
    assert [(one.returncode, one.stdout, one.stderr) for one in ended] == [
        (
            2,
            "",
            "actor: expected HOST:PORT with a port in 1 to 65534, got 'nowhere': give the learner's "
            "address; see python -m actor --help\n",
        )
    ] * 2
