"""The plain loop that the learner is compared with computes the same losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.config import Config, PPOConfig, RNDConfig, RolloutConfig
from common.protocol.chunk import Chunk
from common.spaces import Spaces
from learner.training.batch import make_batch
from learner.training.ppo import PPO
from tests.bench.naive import Naive

T, E = 6, 4
IMAGES = Spaces((84, 84), 4, 3)
CONFIG = Config(
    precision="float32",
    rollout=RolloutConfig(steps=T, lanes=2, batch_lanes=E),
    ppo=PPOConfig(epochs=3, minibatches=1),
    rnd=RNDConfig(predictor_keep=1.0),
)
RELATIVE = 1e-4  # of the norm of a tensor's change; two float32 programs differ by about 1e-5
STATISTICS = torch.full((84, 84), 128.0), torch.full((84, 84), 64.0)


@pytest.mark.parametrize("time_limit_is_end", [False, True])
def test_the_plain_loop_learns_what_the_learner_learns(
    make_chunk: Callable[..., Chunk], time_limit_is_end: bool
) -> None:
    """Whole batches as minibatches and a full predictor: no draw is left to differ."""
    config = replace(CONFIG, env=replace(CONFIG.env, time_limit_is_end=time_limit_is_end))
    cpu = torch.device("cpu")
    chunk = make_chunk(T, E, IMAGES, 5, [(1, 0)], [(3, 2)])
    batch = make_batch(chunk, np.zeros(E, np.int64), chunk.reward, chunk.bonus, IMAGES, STATISTICS, cpu)
    ppo = PPO(config, IMAGES, cpu)
    naive = Naive(ppo, config, cpu)
    before = {name: value.clone() for name, value in ppo.tensors().items()}
    report, losses = ppo.update(batch, STATISTICS, 0.0), naive.update(batch, STATISTICS)
    assert report is not None
    for name, loss in losses.items():
        assert loss == pytest.approx(report.figures[name], rel=1e-3, abs=1e-5), name
    plain = {f"policy.{name}": x for name, x in naive.policy.items()}
    plain |= {f"predictor.{name}": x for name, x in naive.predictor.items()}
    for name, value in ppo.tensors().items():
        change, expected = plain[name].detach() - before[name], value - before[name]
        assert expected.norm() > 0, name
        assert (change - expected).norm() <= RELATIVE * expected.norm(), name
