"""The batch that is built from the chunks of an update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.config import Config, EnvConfig, PPOConfig, RolloutConfig
from common.model import rnd
from common.protocol.chunk import Chunk
from common.spaces import Spaces
from learner.interface import DecodedChunk
from learner.training.batch import join
from learner.training.batch_builder import BatchBuilder
from learner.training.normaliser import Normaliser
from learner.training.ppo import PPO

T, B, E = 7, 2, 6
CPU = torch.device("cpu")
SPACES = Spaces((3,), 1, 4)
CONFIG = Config(
    precision="float32",
    max_lag=2,
    env=EnvConfig(reward="raw"),
    rollout=RolloutConfig(steps=T, lanes=B, batch_lanes=E),
    ppo=PPOConfig(epochs=1, minibatches=1),
)
Maker = Callable[..., Chunk]


def chunks_of(make_chunk: Maker, lags: tuple[int, ...] = (0, 0, 0)) -> list[DecodedChunk]:
    """One chunk of noise from each of three slots, at the given lags behind version 5."""
    return [
        DecodedChunk(bytes([slot]) * 16, 5, slot, 0, 0, 5 - lag, True, make_chunk(T, B, SPACES, slot))
        for slot, lag in enumerate(lags)
    ]


def builder_of(config: Config) -> tuple[BatchBuilder, PPO]:
    ppo = PPO(config, SPACES, CPU)
    return BatchBuilder(config, SPACES, CPU, ppo.compute_bonus), ppo


def test_rewards_are_signs_or_raw_or_scaled_as_configured(make_chunk: Maker) -> None:
    """Rewards are -1, 0 and 1; or those of the task; or these divided by one number."""
    chunks = chunks_of(make_chunk)
    chunks[1].chunk.reward[2, 1] = 0.0
    raw = join([decoded.chunk for decoded in chunks]).reward
    built = {}
    for kind in ("sign", "raw", "scaled"):
        config = replace(CONFIG, env=EnvConfig(reward=kind))
        built[kind] = builder_of(config)[0].build(chunks, 5, Normaliser(SPACES, config))
    reward = {kind: made.batch.reward.numpy() for kind, made in built.items()}
    np.testing.assert_array_equal(reward["sign"], np.sign(raw))
    np.testing.assert_array_equal(reward["raw"], raw)
    spread = float(built["scaled"].normaliser.extrinsic_return.std)
    assert spread != pytest.approx(1.0, rel=0.01)
    np.testing.assert_allclose(reward["scaled"], raw / spread, rtol=1e-6)
    assert {values.dtype.name for values in reward.values()} == {"float32"}


def test_a_stale_chunk_gets_the_bonus_of_the_present_predictor_and_a_fresh_one_keeps_its_own(
    make_chunk: Maker,
) -> None:
    """It is the bonus of the next observations, whitened with the statistics of the acting version."""
    builder, ppo = builder_of(CONFIG)
    normaliser, chunks = Normaliser(SPACES, CONFIG), chunks_of(make_chunk, (0, 2, 1))
    normaliser.observe(make_chunk(50, E, SPACES, 9).observation)
    mean, std = normaliser.observation_statistics()
    assert not torch.allclose(std, torch.ones(3), atol=0.01)
    shipped = join([decoded.chunk for decoded in chunks])
    built = builder.build(chunks, 5, normaliser)
    np.testing.assert_array_equal(built.joined.bonus[:, :B], shipped.bonus[:, :B])
    for lane in range(B, E):
        seen = rnd.whiten(torch.from_numpy(shipped.observation[1:, lane]), mean, std)
        with torch.no_grad():
            error = rnd.prediction_error(ppo.predictor(seen), ppo.target(seen))
        np.testing.assert_allclose(built.joined.bonus[:, lane], error, rtol=1e-4)
    stale = built.joined.bonus[:, B:]
    assert not np.isclose(stale, shipped.bonus[:, B:]).all()
    shift = np.abs(shipped.bonus[:, B:] - stale).mean() / stale.std()
    assert built.stale_bonus_shift == pytest.approx(shift, rel=1e-5)


def test_the_bonus_shift_is_zero_without_stale_chunks_or_with_recomputed_bonuses(make_chunk: Maker) -> None:
    builder, _ = builder_of(CONFIG)
    fresh, stale = chunks_of(make_chunk), chunks_of(make_chunk, (0, 2, 1))
    assert builder.build(fresh, 5, Normaliser(SPACES, CONFIG)).stale_bonus_shift == 0.0
    bonus = builder.build(stale, 5, Normaliser(SPACES, CONFIG)).joined.bonus
    for slot, decoded in enumerate(stale):
        decoded.chunk.bonus[:] = bonus[:, slot * B : (slot + 1) * B]
    assert builder.build(stale, 5, Normaliser(SPACES, CONFIG)).stale_bonus_shift < 1e-6


def test_building_changes_neither_the_given_statistics_nor_the_chunks(make_chunk: Maker) -> None:
    config = replace(CONFIG, env=EnvConfig(reward="scaled"))
    builder, normaliser, chunks = builder_of(config)[0], Normaliser(SPACES, config), chunks_of(make_chunk)
    normaliser = builder.build(chunks, 5, normaliser).normaliser  # with filters and running returns
    first, second = (builder.build(chunks, 5, normaliser) for _ in range(2))
    for name, value in first.normaliser.state().items():
        assert torch.equal(value, second.normaliser.state()[name])
        assert not torch.equal(value, normaliser.state()[name])
    assert torch.equal(first.batch.reward, second.batch.reward)
    assert torch.equal(first.batch.intrinsic, second.batch.intrinsic)
