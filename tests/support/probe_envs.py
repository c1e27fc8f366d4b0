"""Tasks with known values, and a run of learner and actor in one thread, without sockets.

Source of the tasks: Jones 2021, "Debugging RL, without the agonizing pain" (probe environments).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from actor.metrics import PHASES
from actor.rollout import Rollout
from actor.service import Actor, PlayingState
from actor.session import SessionCounters
from actor.weights import Blob
from common.atari import Transition
from common.config import Config
from common.model import rnd
from common.model.bonus import BonusModel
from common.model.bundle import Bundle
from common.model.networks import PolicyOutput
from common.model.policy import Policy
from common.phase_timer import PhaseTimer
from common.protocol import codec
from common.protocol.chunk import WARMUP_VERSION
from common.spaces import Spaces
from learner.interface import DecodedChunk
from learner.server.publisher import WeightsBlob
from learner.training.ppo import PPO, UpdateReport
from learner.training.trainer import Trainer
from tests.support.fake_server import NoCheckpoints

Array = npt.NDArray[Any]
RewardFunction = Callable[[Array, Array], Array]  # state and action of each lane -> its reward


@dataclass
class Probe:
    """B lanes on a ring of states. Each state has its own observation; actions do not change the next state.

    Lanes start one state apart, so that their episodes end at different steps.
    """

    length: int
    reward_of: RewardFunction
    time_limit: bool = False  # whether a time limit ends each episode, after the last state
    bounds: tuple[tuple[float, float], ...] = ()
    scale: float = 1.0  # of observations, and their distance from 0

    @property
    def spaces(self) -> Spaces:
        """Two actions, or one continuous action."""
        return Spaces((self.length,), 1, len(self.bounds) or 2, self.bounds)

    @property
    def states(self) -> npt.NDArray[np.float32]:
        """The observation of each state, float32 [length, length]."""
        return self.scale * (1 + np.eye(self.length, dtype=np.float32))

    def reset(self, seeds: npt.NDArray[np.int64]) -> Array:
        """See `VectorEnv`."""
        self._state = np.arange(len(seeds)) % self.length
        return self.states[self._state][:, None]

    def step(self, action: Array) -> Transition:
        """See `VectorEnv`."""
        reward = self.reward_of(self._state, action).astype(np.float32)
        self._state = (self._state + 1) % self.length
        ended = self._state == 0
        truncated = ended & self.time_limit
        seen = self.states[self._state]
        none = np.zeros(len(ended), np.uint8)
        return Transition(
            *(seen[:, None], reward, ended & ~truncated, truncated, seen[truncated]),
            life_lost=none.astype(np.bool_),
            room=none,
        )

    def close(self) -> None:
        """See `VectorEnv`."""


@dataclass
class Loop:
    """A whole run in one thread.

    It stands in for the session and the weights of one actor, and for the server of the trainer.
    """

    probe: Probe
    config: Config
    lag: int = 0  # versions that the actor is behind
    version: int = WARMUP_VERSION  # the newest that the actor can fetch
    batch: int = WARMUP_VERSION
    reports: list[UpdateReport] = field(default_factory=list)

    sid, generation, joined, finished = bytes(16), 0, True, False
    counters: ClassVar[SessionCounters] = SessionCounters()  # the session never reconnects
    welcome: ClassVar[Any] = SimpleNamespace(generation=0, slot=0, incarnation=0)

    def __post_init__(self) -> None:
        spaces, config = self.probe.spaces, self.config
        phases, never = PhaseTimer(PHASES), threading.Event()
        both: Any = self  # server of the trainer, session and weights of the actor
        cpu = torch.device("cpu")
        ppo = PPO(config, spaces, cpu)
        nowhere = Path()  # no checkpoint is due, and no update fails
        self.trainer = Trainer(
            config,
            spaces,
            cpu,
            ppo,
            both,
            NoCheckpoints(nowhere),
            nowhere,
            self.generation,
            never,
            lambda: None,
        )
        target = self.trainer.ppo.target.state_dict()
        self.playing = PlayingState(
            self.welcome,
            config,
            spaces,
            Rollout(self.probe, spaces, config.rollout, phases),
            Policy(spaces, config),
            BonusModel(spaces, config, target) if config.rnd.enabled else None,
        )
        parent: Any = SimpleNamespace(gone=lambda: False)
        self.actor = Actor(both, both, parent, never, phases, lambda stats: None, self.playing)
        self.blobs: list[WeightsBlob] = []
        self._produced = self._sent = 0
        self.trainer.warm_up()

    def run(self) -> Loop:
        """Train to the end of the run."""
        while self.trainer.status.version < self.config.updates:
            self.update()
        return self

    def update(self) -> UpdateReport:
        """Train on one batch."""
        self.trainer.update()
        report = self.trainer.status.report
        assert report is not None
        self.reports.append(report)
        return report

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of all observations that were trained on."""
        return self.trainer.normaliser.observation_statistics()

    def outputs(self) -> PolicyOutput:
        """The policy's outputs for each state."""
        states = rnd.whiten(torch.from_numpy(self.probe.states), *self.statistics(), rnd.POLICY_CLIP)
        with torch.no_grad():
            output: PolicyOutput = self.trainer.ppo.policy(states[:, None])
        return output

    # Methods that the trainer calls.

    def publish(self, bundle: Bundle) -> None:
        self.blobs.append(WeightsBlob.of("bundle", bundle))

    def open_batch(self, version: int) -> None:
        self.batch, self.version = version, max(min(version, 0), version - self.lag)

    def settle(self, chunks: list[DecodedChunk], verdict: str) -> None:
        pass

    def take(self, timeout_seconds: float) -> DecodedChunk:
        assert self.actor._load(self.playing)
        self.actor._play(self.playing)
        return self.delivered

    # Methods that the actor calls.

    def fetch(self, name: str, held: tuple[int, int], meanwhile: Callable[[], bool]) -> Blob:
        blob = self.blobs[self.version]
        return Blob(blob.meta.generation, blob.meta.version, b"".join(blob.pieces))

    def poll(self) -> None:
        pass

    def count_steps(self, steps: int) -> None:
        self._produced += steps

    def send_chunk(self, generation: int, version: int, fresh: bool, packed: codec.Packed) -> None:
        offset, steps = self._sent, self._produced - self._sent
        self._sent = self._produced
        message = packed.message(
            sid=self.sid,
            generation=generation,
            version=version,
            offset=offset,
            steps=steps,
            produced=self._produced,
            fresh=fresh,
        )
        chunk = codec.unpack(message, self.config.rollout, self.probe.spaces)
        self.delivered = DecodedChunk(self.sid, self.batch, 0, 0, offset, version, fresh, chunk)
