"""What the trainer makes of a batch before it is trained on, and what a failed update leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from common.config import Config, EnvConfig, PPOConfig, RolloutConfig
from common.model import rnd
from common.protocol.chunk import Chunk
from common.spaces import Spaces
from learner.interface import DecodedChunk
from learner.training.batch import join
from learner.training.checkpoint import RunDirectory
from learner.training.ppo import PPO
from learner.training.trainer import Trainer

T, B, E = 7, 2, 6
SPACES = Spaces((3,), 1, 4)
CONFIG = Config(
    precision="float32",
    max_lag=2,
    env=EnvConfig(reward="raw"),
    rollout=RolloutConfig(steps=T, lanes=B, batch_lanes=E),
    ppo=PPOConfig(epochs=1, minibatches=1),
)
Maker = Callable[..., Chunk]
TrainerMaker = Callable[[Config], Trainer]


@pytest.fixture
def make_trainer(tmp_path: Path) -> TrainerMaker:
    """A trainer without a fleet, at version 5."""

    def make(config: Config) -> Trainer:
        run = RunDirectory.__new__(RunDirectory)  # nothing here writes to it
        cpu, server = torch.device("cpu"), mock.Mock()
        ppo = PPO(config, SPACES, cpu)
        trainer = Trainer(config, SPACES, cpu, ppo, server, run, 0, threading.Event(), lambda: None)
        trainer.progress.version = 5
        return trainer

    return make


def chunks_of(make_chunk: Maker, lags: tuple[int, ...] = (0, 0, 0)) -> list[DecodedChunk]:
    """One chunk of noise from each of three slots, so many versions behind version 5."""
    return [
        DecodedChunk(bytes([slot]) * 16, 5, slot, 0, 0, 5 - lag, True, make_chunk(T, B, SPACES, slot))
        for slot, lag in enumerate(lags)
    ]


def joined(chunks: list[DecodedChunk]) -> Chunk:
    """The batch they make."""
    return join([delivered.chunk for delivered in chunks])


def test_rewards_are_signs_or_raw_or_scaled_as_asked(make_trainer: TrainerMaker, make_chunk: Maker) -> None:
    """-1, 0 and 1; what the game paid; or one multiple of that for all."""
    chunks = chunks_of(make_chunk)
    chunks[1].chunk.reward[2, 1] = 0.0
    whole = joined(chunks)
    trainers = {
        kind: make_trainer(replace(CONFIG, env=EnvConfig(reward=kind))) for kind in ("sign", "raw", "scaled")
    }
    found = {kind: trainer._reward(chunks, whole) for kind, trainer in trainers.items()}
    np.testing.assert_array_equal(found["sign"], np.sign(whole.reward))
    np.testing.assert_array_equal(found["raw"], whole.reward)
    spread = float(trainers["scaled"].normaliser.extrinsic_return.std)
    assert spread != pytest.approx(1.0, rel=0.01)
    np.testing.assert_allclose(found["scaled"], whole.reward / spread, rtol=1e-6)
    assert {reward.dtype.name for reward in found.values()} == {"float32"}


def test_a_stale_chunk_is_rated_anew_by_the_predictor_and_a_fresh_one_keeps_its_bonus(
    make_trainer: TrainerMaker, make_chunk: Maker
) -> None:
    """Of the observations that followed its steps, whitened with the given statistics."""
    trainer, chunks = make_trainer(CONFIG), chunks_of(make_chunk, (0, 2, 1))
    whole, shipped = joined(chunks), joined(chunks).bonus.copy()
    mean, std = torch.tensor([0.5, 0.0, -1.0]), torch.tensor([2.0, 1.0, 0.5])
    moved = trainer._rate_stale(whole, np.array([0, 2, 1]), (mean, std))
    np.testing.assert_array_equal(whole.bonus[:, :B], shipped[:, :B])
    for lane in range(B, E):
        seen = rnd.whiten(torch.from_numpy(whole.observation[1:, lane]), mean, std)
        with torch.no_grad():
            error = rnd.prediction_error(trainer.ppo.predictor(seen), trainer.ppo.target(seen))
        np.testing.assert_allclose(whole.bonus[:, lane], error, rtol=1e-4)
    assert not np.isclose(whole.bonus[:, B:], shipped[:, B:]).all()
    distance = np.abs(whole.bonus[:, B:] - shipped[:, B:]).mean() / whole.bonus[:, B:].std()
    assert moved == pytest.approx(distance, rel=1e-5)
    assert trainer._rate_stale(whole, np.array([0, 2, 1]), (mean, std)) < 1e-6  # as it was rated just now
    assert trainer._rate_stale(whole, np.array([0, 0, 0]), (mean, std)) == 0.0


def test_games_of_a_failed_update_are_not_reported(
    make_trainer: TrainerMaker, make_chunk: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their chunks are not trained on."""
    trainer, chunks = make_trainer(CONFIG), chunks_of(make_chunk)
    for delivered in chunks:
        delivered.chunk.terminated[T - 1] = True
    monkeypatch.setattr(trainer, "_gather", lambda: chunks)
    monkeypatch.setattr(trainer, "_give_up", lambda *batch: None)
    chunks[0].chunk.bonus[3, 1] = np.nan
    assert trainer.update() == []
    assert trainer.episodes.count == 0


def test_a_failed_update_leaves_every_kept_statistic_as_it_was(
    make_trainer: TrainerMaker, make_chunk: Maker
) -> None:
    trainer = make_trainer(replace(CONFIG, env=EnvConfig(reward="scaled")))
    good = chunks_of(make_chunk)
    assert trainer._train(good, joined(good)) is not None
    before = {name: value.clone() for name, value in trainer.normaliser.state().items()}
    spoilt = joined(good)
    spoilt.bonus[3, 1] = np.nan
    assert trainer._train(good, spoilt) is None
    after = trainer.normaliser.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    calm = make_trainer(replace(CONFIG, env=EnvConfig(reward="scaled")))
    for _ in range(2):
        assert calm._train(good, joined(good)) is not None
    assert trainer._train(good, joined(good)) is not None
    expected, found = calm.normaliser.state(), trainer.normaliser.state()
    assert all(torch.equal(expected[name], found[name]) for name in expected)  # of running returns, too
    assert not torch.equal(before["observation.count"], found["observation.count"])
