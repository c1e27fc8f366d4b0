"""The learner on an accelerator: no tensor is on the wrong side, and the host seldom waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import Config, EnvConfig, PPOConfig, RNDConfig, RolloutConfig
from common.protocol.chunk import Chunk
from common.spaces import Spaces
from learner.interface import DecodedChunk, Verdict
from learner.server.publisher import WeightsBlob
from learner.service import target_blob
from learner.training import checkpoint
from learner.training.batch import Batch, make_batch
from learner.training.ppo import PPO, UpdateReport
from tests.support.fake_server import FakeServer, make_trainer
from tests.support.stand_in_device import DEVICE, StandInDevice, stand_in_device

T, LANES, E = 6, 2, 4
IMAGES, VECTORS = Spaces((84, 84), 4, 3), Spaces((5,), 1, 3)
TORQUES = Spaces((5,), 1, 2, ((-1.0, 1.0),) * 2)
SPACES = pytest.mark.parametrize("spaces", [IMAGES, VECTORS, TORQUES], ids=["images", "vectors", "torques"])
CPU = torch.device("cpu")
CONFIG = Config(
    precision="float32",
    env=EnvConfig(reward="raw"),
    rollout=RolloutConfig(steps=T, lanes=LANES, batch_lanes=E),
    ppo=PPOConfig(epochs=2, minibatches=2, normalise_advantages=True),
    rnd=RNDConfig(predictor_keep=0.5),
)
UPDATE_UPLOADS = 3  # rows of all minibatches, those that the predictor sees, those that the target sees
STATISTICS_UPLOADS = 2  # mean and standard deviation
RATE_UPLOADS = 1 + STATISTICS_UPLOADS  # the observations of stale lanes
BATCH_UPLOADS = 11  # ten arrays of the chunk and the rows that a time limit cut
Maker = Callable[..., Chunk]


@pytest.fixture
def device() -> Iterator[StandInDevice]:
    with stand_in_device() as made:
        yield made


def statistics_of(spaces: Spaces, device: torch.device = CPU) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = torch.full(spaces.observation, 0.5), torch.full(spaces.observation, 2.0)
    return mean.to(device), std.to(device)


def batch_on(device: torch.device, spaces: Spaces, make_chunk: Maker, lag: int = 0) -> Batch:
    chunk = make_chunk(T, E, spaces, 3, terminated=[(2, 1), (4, 1)], truncated=[(5, 3), (1, 0)])
    lags = np.full(E, lag)
    return make_batch(chunk, lags, chunk.reward, chunk.bonus, spaces, statistics_of(spaces), device)


def train(ppo: PPO, batch: Batch, statistics: tuple[torch.Tensor, torch.Tensor]) -> UpdateReport:
    report = ppo.update(batch, statistics, 0.0)
    assert report is not None
    return report


def test_the_stand_in_refuses_what_cuda_refuses(device: StandInDevice) -> None:
    there, here = torch.ones(3).to(DEVICE), torch.ones(3)
    for wrong in (
        lambda: there + here,
        lambda: there.numpy(),
        lambda: torch.rand(3, generator=torch.Generator(), device=DEVICE),
    ):
        with pytest.raises((RuntimeError, TypeError), match="expected"):
            wrong()
    assert (there * 2).cpu().tolist() == [2.0] * 3


def test_the_stand_in_counts_waits_and_uploads(device: StandInDevice) -> None:
    there = torch.arange(3.0).to(DEVICE)
    assert (device.waits.total(), device.uploads.total()) == (0, 1)
    for wait in (
        lambda: float(there[0]),
        lambda: there.nonzero(),
        lambda: there[there > 1],
        lambda: there.tolist(),
        lambda: there.cpu(),
    ):
        device.reset()
        wait()
        assert (device.waits.total(), device.uploads.total()) == (1, 0)
    device.reset()
    there[torch.tensor([0, 2])].add_(1)  # an index on the host
    assert (device.waits.total(), device.uploads.total()) == (0, 1)


@SPACES
def test_a_batch_is_the_same_on_a_device_and_is_made_without_a_wait(
    spaces: Spaces, make_chunk: Maker, device: StandInDevice
) -> None:
    expected = batch_on(CPU, spaces, make_chunk)
    device.reset()
    found = batch_on(DEVICE, spaces, make_chunk)
    assert not device.waits
    assert device.uploads.total() <= BATCH_UPLOADS + (0 if spaces.is_image else 2)  # the statistics
    for name in Batch.__slots__:
        assert torch.equal(getattr(found, name).cpu(), getattr(expected, name)), name


@SPACES
@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (2, 2), (3, 4)])
def test_an_update_waits_once_and_uploads_three_times_however_many_passes_it_makes(
    spaces: Spaces, epochs: int, minibatches: int, make_chunk: Maker, device: StandInDevice
) -> None:
    config = replace(CONFIG, ppo=replace(CONFIG.ppo, epochs=epochs, minibatches=minibatches))
    ppo, statistics = PPO(config, spaces, DEVICE), statistics_of(spaces, DEVICE)
    for lag in (0, 1):
        batch = batch_on(DEVICE, spaces, make_chunk, lag)
        device.reset()
        train(ppo, batch, statistics)
        assert device.waits.total() == 1, device.waits
        assert device.uploads.total() == UPDATE_UPLOADS, device.uploads


def test_an_update_without_a_bonus_uploads_the_rows_alone(make_chunk: Maker, device: StandInDevice) -> None:
    ppo = PPO(replace(CONFIG, rnd=RNDConfig(enabled=False)), VECTORS, DEVICE)
    batch, statistics = batch_on(DEVICE, VECTORS, make_chunk), statistics_of(VECTORS, DEVICE)
    device.reset()
    train(ppo, batch, statistics)
    assert device.waits.total() == 1, device.waits
    assert device.uploads.total() <= UPDATE_UPLOADS - 1, device.uploads


@SPACES
def test_a_device_trains_and_rates_as_the_host_does(
    spaces: Spaces, make_chunk: Maker, device: StandInDevice
) -> None:
    learners = {where: PPO(CONFIG, spaces, where) for where in (CPU, DEVICE)}
    figures, bonuses = [], []
    for where, ppo in learners.items():
        statistics = statistics_of(spaces, where)
        batch = batch_on(where, spaces, make_chunk)
        figures.append([train(ppo, batch, statistics).figures for _ in range(2)])
        device.reset()
        bonus = ppo.compute_bonus(batch.next_observation, statistics)
        assert not device.waits + device.uploads
        bonuses.append(bonus.cpu())
    assert figures[0] == figures[1]
    assert torch.equal(*bonuses)
    states = [ppo.state() for ppo in learners.values()]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


class CountingServer(FakeServer):
    """Notes the copies of an update up to its settlement; those of the bundle come after it."""

    def __init__(self, chunks: list[DecodedChunk], device: StandInDevice) -> None:
        super().__init__(chunks)
        self.device = device

    def settle(self, chunks: Sequence[DecodedChunk], verdict: Verdict) -> None:
        self.waits, self.uploads = self.device.waits.copy(), self.device.uploads.copy()
        self.device.reset()


@SPACES
def test_a_batch_with_a_stale_chunk_is_trained_on_and_published_with_few_copies(
    spaces: Spaces, tmp_path: Path, make_chunk: Maker, device: StandInDevice
) -> None:
    """Bonus of the stale chunk, batch, update and bundle are those of the host."""
    chunks = [
        make_chunk(T, LANES, spaces, seed, terminated=[(2, 1)], truncated=[(4, 0)])
        for seed in range(CONFIG.rollout.batch_chunks)
    ]
    reports, bundles = [], []
    for where in (CPU, DEVICE):
        decoded = [
            DecodedChunk(b"", 1, slot, 0, 0, version=min(slot, 1), fresh=True, chunk=chunk)
            for slot, chunk in enumerate(chunks)  # the first is a version behind
        ]
        server = CountingServer(decoded, device)
        trainer = make_trainer(CONFIG, spaces, server, tmp_path, version=1, device=where)
        device.reset()
        trainer.update()
        reports.append(trainer.status.report)
        bundles.append(WeightsBlob.of("bundle", server.bundles[-1]).meta)
    whitening = 0 if spaces.is_image else STATISTICS_UPLOADS
    most = RATE_UPLOADS + BATCH_UPLOADS + whitening + STATISTICS_UPLOADS + UPDATE_UPLOADS
    assert server.waits.total() == 2, server.waits  # the new bonus, the figures
    assert server.uploads.total() <= most, server.uploads
    assert reports[0] is not None and reports[0] == reports[1]
    assert reports[0].figures["stale_bonus_shift"] > 0
    assert bundles[0] == bundles[1]
    assert device.waits.total() <= len(trainer.ppo.tensors()), device.waits
    assert not device.uploads


def test_checkpoint_target_and_bundle_leave_the_device(
    tmp_path: Path, make_chunk: Maker, device: StandInDevice
) -> None:
    """A learner on a device saves, offers what actors need, and resumes to the same next update."""
    statistics, batch = statistics_of(IMAGES, DEVICE), batch_on(DEVICE, IMAGES, make_chunk)
    trainer = make_trainer(CONFIG, IMAGES, FakeServer(), tmp_path, version=1, device=DEVICE)
    train(trainer.ppo, batch, statistics)
    snapshot = trainer.snapshot("{}")
    assert {value.device for value in snapshot.tensors.values()} == {CPU}
    saved = checkpoint.load(checkpoint.save(tmp_path, 1, snapshot))
    assert isinstance(target_blob(trainer.ppo), WeightsBlob)
    assert {value.device for value in trainer.ppo.tensors().values()} == {CPU}
    resumed = make_trainer(CONFIG, IMAGES, FakeServer(), tmp_path, device=DEVICE)
    resumed.ppo.load(saved.tensors)
    resumed.restore(saved)
    assert train(resumed.ppo, batch, statistics) == train(trainer.ppo, batch, statistics)
    assert all(torch.equal(value, resumed.ppo.state()[name]) for name, value in trainer.ppo.state().items())
