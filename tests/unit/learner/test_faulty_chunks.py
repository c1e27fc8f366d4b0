"""Each chunk of a failed batch is examined alone, and nothing remains of the examination."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.config import Config, EnvConfig, PPOConfig, RNDConfig, RolloutConfig
from common.protocol import codec
from common.protocol.chunk import Chunk
from common.spaces import Spaces
from learner.interface import DecodedChunk
from learner.training.batch_builder import BatchBuilder
from learner.training.faulty_chunks import FaultyChunkFinder
from learner.training.normaliser import Normaliser
from learner.training.ppo import PPO
from tests.support.chunk_messages import chunk_message

T, B, E = 7, 2, 6
TORQUES = Spaces((3,), 1, 2, ((-1.0, 1.0),) * 2)
CONFIG = Config(
    precision="float32",
    env=EnvConfig(reward="scaled"),
    rollout=RolloutConfig(steps=T, lanes=B, batch_lanes=E),
    ppo=PPOConfig(epochs=2, minibatches=3),
    rnd=RNDConfig(warmup_steps=0, predictor_keep=0.5),
)
CPU = torch.device("cpu")
FAR_ACTION = 1e30  # a finite number whose square is infinite; the codec accepts any finite action
Maker = Callable[..., Chunk]


class Learner:
    """What the examination of a failed batch needs."""

    def __init__(self, config: Config = CONFIG) -> None:
        self.ppo = PPO(config, TORQUES, CPU)
        self.builder = BatchBuilder(config, TORQUES, CPU, self.ppo.compute_bonus)
        self.normaliser = Normaliser(TORQUES, config)
        self.finder = FaultyChunkFinder(config, TORQUES, self.ppo, self.builder)

    def train(self, chunks: list[DecodedChunk]) -> bool:
        """Run an update; return whether it succeeded."""
        built = self.builder.build(chunks, 0, self.normaliser)
        report = self.ppo.update(built.batch, built.statistics, 0.0)
        if report is not None:
            self.normaliser = built.normaliser
        return report is not None

    def faulty(self, chunks: list[DecodedChunk]) -> list[int]:
        """Return the slots of the chunks to blame."""
        return [decoded.slot for decoded in self.finder.find(chunks, 0, self.normaliser, 0.0)]


def chunks_of(make_chunk: Maker, far: tuple[int, ...] = (), seed: int = 0) -> list[DecodedChunk]:
    """One chunk from each of three slots, as decoded; those in `far` have one action that is far away."""
    chunks = []
    for slot in range(E // B):
        chunk = make_chunk(T, B, TORQUES, seed + slot, truncated=[(2, 1)])
        if slot in far:
            chunk.action[3, 1, 0] = FAR_ACTION
        decoded = codec.unpack(chunk_message(chunk), CONFIG.rollout, TORQUES)
        chunks.append(DecodedChunk(bytes([slot]) * 16, 0, slot, 0, 0, 0, True, decoded))
    return chunks


def test_the_chunks_with_an_action_that_makes_the_update_infinite_are_to_blame(make_chunk: Maker) -> None:
    """The codec accepts them; the other chunk of the batch is not to blame."""
    learner, chunks = Learner(), chunks_of(make_chunk, far=(0, 2))
    assert not learner.train(chunks)
    assert learner.faulty(chunks) == [0, 2]


@pytest.mark.parametrize("updates", [0, 2])
def test_the_examination_changes_nothing(updates: int, make_chunk: Maker) -> None:
    """Neither the chunks that pass nor those that fail; the next update equals the control's."""
    learner, control = Learner(), Learner()
    for one in (learner, control):
        for number in range(updates):
            assert one.train(chunks_of(make_chunk, seed=10 * number))
    before, statistics = copy.deepcopy(learner.ppo.state()), learner.normaliser.state()
    assert learner.faulty(chunks_of(make_chunk, far=(1,))) == [1]
    after = learner.ppo.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(torch.equal(value, statistics[name]) for name, value in learner.normaliser.state().items())
    for one in (learner, control):
        assert one.train(chunks_of(make_chunk, seed=70))
    ours, theirs = learner.ppo.state(), control.ppo.state()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_if_every_chunk_fails_a_reference_decides(make_chunk: Maker) -> None:
    """A chunk of zeros before the first update; if the reference fails as well, no chunk is to blame."""
    learner, chunks = Learner(), chunks_of(make_chunk, far=(0, 1, 2))
    assert learner.faulty(chunks) == [0, 1, 2]
    learner.finder.reference = chunks_of(make_chunk)[0]
    assert learner.faulty(chunks) == [0, 1, 2]
    learner.finder.reference = chunks[0]
    assert learner.faulty(chunks) == []


@pytest.mark.parametrize("updated", [False, True])
def test_no_chunk_is_to_blame_if_the_settings_are_the_cause(updated: bool, make_chunk: Maker) -> None:
    """The learning rate is far too large, so that every update fails."""
    config = replace(CONFIG, ppo=PPOConfig(epochs=2, minibatches=3, learning_rate=1e38, max_grad_norm=0.0))
    learner, chunks = Learner(config), chunks_of(make_chunk)
    if updated:
        learner.finder.reference = chunks_of(make_chunk, seed=20)[0]
    assert not learner.train(chunks)
    assert learner.faulty(chunks) == []


def test_a_chunk_may_have_fewer_steps_than_the_update_has_minibatches(make_chunk: Maker) -> None:
    config = replace(CONFIG, ppo=PPOConfig(epochs=2, minibatches=T * E))
    assert config.ppo.minibatches > T * B
    assert Learner(config).faulty(chunks_of(make_chunk, far=(1,))) == [1]


def test_the_far_action_is_finite_and_its_square_is_not() -> None:
    action = np.float32(FAR_ACTION)
    with np.errstate(over="ignore"):
        assert np.isfinite(action) and np.isinf(action * action)
