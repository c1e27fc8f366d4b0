"""Tiny batches for PPO, and updates on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from common.config import Config, EnvConfig, PPOConfig, RNDConfig, RolloutConfig
from common.model.bundle import Bundle
from common.model.policy import Policy
from common.protocol.chunk import Chunk
from common.spaces import Spaces
from learner.training.batch import Batch, make_batch
from learner.training.ppo import PPO, UpdateReport

T, E = 8, 6
SPACES = Spaces((5,), 1, 3)
TORQUES = Spaces((5,), 1, 2, ((-1.0, 1.0),) * 2)
IMAGES = Spaces((84, 84), 4, 3)
CPU = torch.device("cpu")
CONFIG = Config(
    precision="float32",
    env=EnvConfig(reward="raw"),
    rollout=RolloutConfig(steps=T, lanes=2, batch_lanes=E),
    ppo=PPOConfig(epochs=2, minibatches=3, learning_rate=1e-3),
    rnd=RNDConfig(predictor_keep=0.5),
)
STATISTICS = torch.zeros(5), torch.ones(5)
IMAGE_STATISTICS = torch.full((84, 84), 128.0), torch.full((84, 84), 64.0)
Maker = Callable[..., Chunk]


def tuned(**options: object) -> Config:
    """The configuration with other PPO options."""
    return replace(CONFIG, ppo=replace(CONFIG.ppo, **options))  # type: ignore[arg-type]


def bundle(ppo: PPO, statistics: tuple[Tensor, Tensor] = STATISTICS) -> Bundle:
    """The bundle that actors would receive."""
    return Bundle(0, 0, ppo.tensors() | dict(zip(("mean", "std"), statistics, strict=True)))


def batch_from(
    chunk: Chunk, spaces: Spaces, lag: int = 0, statistics: tuple[Tensor, Tensor] = STATISTICS
) -> Batch:
    """The chunk as a batch; the policy that acted is `lag` versions old."""
    lags = np.full(chunk.reward.shape[1], lag)
    return make_batch(chunk, lags, chunk.reward, chunk.bonus, spaces, statistics, CPU)


def train(ppo: PPO, batch: Batch, progress: float = 0.0) -> UpdateReport:
    """Run one update, which must succeed."""
    report = ppo.update(batch, IMAGE_STATISTICS if batch.stack.dtype is torch.uint8 else STATISTICS, progress)
    assert report is not None
    return report


def batch_for(
    ppo: PPO, config: Config, make_chunk: Maker, seed: int = 0, spaces: Spaces = SPACES, lag: int = 0
) -> Batch:
    """A batch with terminations and time limits; the present policy chose its actions."""
    chunk = make_chunk(T, E, spaces, seed, terminated=[(1, 0), (5, 2)], truncated=[(3, 1), (7, 5)])
    actor = Policy(spaces, config)
    actor.load(bundle(ppo))
    uniform = np.random.default_rng(seed).random((T, E, *spaces.action), np.float32)
    for t in range(T):
        chunk.action[t], chunk.log_prob[t] = actor.act(chunk.observation[t, :, None], uniform[t])
    return batch_from(chunk, spaces, lag)


def updated(config: Config, make_chunk: Maker, updates: int = 1) -> tuple[PPO, list[UpdateReport]]:
    """A new PPO after some updates, each on a batch of its own policy."""
    ppo = PPO(config, SPACES, CPU)
    reports = []
    for number in range(updates):
        batch = batch_for(ppo, config, make_chunk, number)
        reports.append(train(ppo, batch, number / 10))
    return ppo, reports


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def image_batch(ppo: PPO, config: Config, make_chunk: Maker, seed: int = 0) -> Batch:
    """A batch of image stacks; the present policy chose its actions."""
    chunk = make_chunk(2, 3, IMAGES, seed, truncated=[(0, 1)])
    actor = Policy(IMAGES, config)
    actor.load(bundle(ppo, IMAGE_STATISTICS))
    batch = batch_from(chunk, IMAGES, statistics=IMAGE_STATISTICS)
    for t in range(2):
        stack = batch.stack[t].movedim(-1, 1).numpy()
        chunk.action[t], chunk.log_prob[t] = actor.act(stack, chunk.bonus[t])
    return batch_from(chunk, IMAGES, statistics=IMAGE_STATISTICS)
