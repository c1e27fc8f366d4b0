"""N actors of k lanes compute what one process with N x k lanes computes, to the last bit.

The service runs whole: the learner in this process, actors in theirs, sockets between them. The data of its
updates and its last checkpoint are compared with those of `tests.support.reference`, which trains with the
product's own PPO: this proves the path of the data, and `tests.support.plain_update` proves the algorithm.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

import learner.server.key_records
import learner.server.sessions
import learner.service
import learner.supervisor
import learner.training.ppo
from common import envs
from common.config import Config, EnvConfig, PPOConfig, RNDConfig, RolloutConfig
from common.model.bundle import Bundle
from learner.commandline import Options
from learner.training import checkpoint
from learner.training.batch import Batch
from learner.training.minibatches import draw_predictor_mask
from learner.training.normaliser import Normaliser
from learner.training.ppo import PPO
from learner.training.running_stats import Moments
from learner.training.targets import Targets
from tests.support.processes import ROOT, free_port, local_actors
from tests.support.reference import Array, Facts, Play, Reference, differing

pytestmark = pytest.mark.integration

E, T, UPDATES = 8, 16, 3
# Episodes end after 25 steps: within the 48 of a run every lane has a time limit, and some have a reward.
GAME = EnvConfig(id="asterix", max_frames=100)
POLE = EnvConfig(id="CartPole-v1", reward="scaled")  # many ends
# Each game takes half a second of a core to load, and is loaded three times.
SPLITS = [pytest.param(n, E // n, marks=[] if n == 2 else pytest.mark.slow) for n in (1, 2, 4, 8)]


def run_of(env: EnvConfig, lanes: int, updates: int = UPDATES) -> Config:
    """E lanes; one chunk of random play from each actor, so that its share does not depend on its speed."""
    return Config(
        seed=3,
        total_steps=updates * E * T,
        precision="float32",
        env=env,
        rollout=RolloutConfig(steps=T, lanes=lanes, batch_lanes=E),
        ppo=PPOConfig(epochs=2, minibatches=2),
        rnd=RNDConfig(warmup_steps=E * T, predictor_keep=0.25),
    )


@pytest.fixture(scope="module")
def lanes_of() -> Iterable[Callable[[EnvConfig], Sequence[envs.VectorEnv]]]:
    """E environments of one lane each, made once per task, because a reset clears all of their state."""
    made: dict[str, list[envs.VectorEnv]] = {}

    def lanes(env: EnvConfig) -> Sequence[envs.VectorEnv]:
        return made.setdefault(env.id, [envs.make(env, 1) for _ in range(E)] if env.id not in made else [])

    yield lanes
    for lane in [lane for lanes in made.values() for lane in lanes]:
        lane.close()


class Service:
    """A service whose updates are recorded; later runs of one instance resume in its directory."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.facts: Facts = {}
        self.schedule: list[list[tuple[int, int]]] = []
        self._slots: list[int] = []
        self._watch(monkeypatch)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setattr(learner.supervisor, "ForkServer", lambda module: local_actors)
        monkeypatch.setattr(local_actors, "close", lambda: None)  # its next learner needs it again
        # Even on a slow machine every actor keeps its session and its share of each batch.
        monkeypatch.setattr(learner.service, "_GATHER_SECONDS", 300.0)
        monkeypatch.setattr(learner.server.sessions, "LEASE_SECONDS", 300.0)
        monkeypatch.setattr(learner.server.key_records, "_OVERDUE_SECONDS", math.inf)

    def _watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scale, update, compute = Normaliser.scale_bonus, PPO.update, learner.training.targets.compute_targets

        def scaling(owner: Normaliser, bonus: Array, slots: Sequence[int]) -> Array:
            self._slots = list(slots)
            self._note("bonus", torch.from_numpy(bonus.copy()))
            return scale(owner, bonus, slots)

        def computing(batch: Batch, *rest: Any) -> Targets:
            targets = compute(batch, *rest)
            for field in fields(targets):
                self._note(f"target {field.name}", getattr(targets, field.name).clone())
            return targets

        def updating(owner: PPO, batch: Batch, *rest: Any) -> object:
            for field in fields(batch):
                self._note(field.name, getattr(batch, field.name).clone())
            report = update(owner, batch, *rest)
            version = len(self.schedule)
            lags = batch.lag.view(len(self._slots), -1)[:, 0].tolist()
            self.schedule.append([(slot, version - lag) for slot, lag in zip(self._slots, lags, strict=True)])
            return report

        monkeypatch.setattr(Normaliser, "scale_bonus", scaling)
        monkeypatch.setattr(PPO, "update", updating)
        monkeypatch.setattr(learner.training.ppo, "compute_targets", computing)

    def _note(self, name: str, value: Tensor) -> None:
        self.facts[f"update {len(self.schedule)}: {name}"] = value

    def run(self, config: Config) -> Facts:
        """Run to the end; return the data of the updates and the tensors of the last checkpoint."""
        actors, run = config.rollout.batch_chunks, self.directory / "run"
        options = Options(run, f"tcp://127.0.0.1:{free_port()}", actors, run.exists(), "cpu")
        summary = learner.service.run(config, options, threading.Event())
        assert summary["exit_reason"] == "finished"
        assert summary["trained_steps"] == config.total_steps
        saved = checkpoint.newest(run / "checkpoints")
        assert saved is not None
        return self.facts | saved.tensors


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    return Service(tmp_path, monkeypatch)


Lanes = Callable[[EnvConfig], Sequence[envs.VectorEnv]]


@pytest.mark.parametrize(("actors", "lanes"), SPLITS)
def test_actors_and_one_process_play_the_same_game(
    actors: int, lanes: int, service: Service, lanes_of: Lanes
) -> None:
    config = run_of(GAME, lanes)
    served = service.run(config)
    assert len(service.schedule) == UPDATES
    assert differing(served, Reference(config, lanes_of(GAME)).run()) == []
    assert any(served[f"update {v}: truncated"].any() for v in range(UPDATES))
    assert any(served[f"update {v}: reward"].any() for v in range(UPDATES))


def test_actors_and_one_process_balance_the_same_pole_with_scaled_rewards(
    service: Service, lanes_of: Lanes
) -> None:
    config = run_of(POLE, lanes=4)
    served = service.run(config)
    assert differing(served, Reference(config, lanes_of(POLE)).run()) == []
    assert any(served[f"update {v}: terminated"].any() for v in range(UPDATES))


@pytest.mark.parametrize(
    "env", [POLE, pytest.param(GAME, marks=pytest.mark.slow)], ids=lambda env: str(env.id)
)
def test_a_resumed_run_equals_one_whose_lanes_are_reset_and_whose_filters_continue(
    env: EnvConfig, service: Service, lanes_of: Lanes
) -> None:
    """The run has two updates, then every process ends, then the resumed run has one update."""
    service.run(run_of(env, lanes=4, updates=2))
    config = run_of(env, lanes=4)
    served = service.run(config)
    assert differing(served, Reference(config, lanes_of(env), reset_after=2).run()) == []


def test_an_overlapped_run_is_determined_by_the_slots_and_versions_of_its_chunks(
    service: Service, lanes_of: Lanes
) -> None:
    """Timing decides only which chunks fill a batch and their versions; the rest is arithmetic."""
    config = replace(run_of(POLE, lanes=4, updates=8), max_lag=1)
    served = service.run(config)
    assert service.schedule[0] == [(0, 0), (1, 0)]
    versions = [{played for _, played in chunks} for chunks in service.schedule]
    assert all(played <= {max(0, v - 1), v} for v, played in enumerate(versions))
    assert any(served[f"update {v}: lag"].any() for v in range(8))
    assert differing(served, Reference(config, lanes_of(POLE), service.schedule).run()) == []


# Bugs in the reference alone: the comparison must detect each of them.


class SlotsReversed(Reference):
    """Chunks lie in a batch in the opposite order."""

    def arrange(
        self, chunks: list[tuple[int, int]], plays: list[Play]
    ) -> tuple[list[tuple[int, int]], list[Play]]:
        return chunks[::-1], plays[::-1]


class StatisticsOfActors(Reference):
    """Each slot whitens with statistics of its own lanes."""

    def observe(self, slots: list[int], play: Play) -> None:
        super().observe(slots, play)
        self.own = getattr(self, "own", {slot: Moments.prior(self.spaces.observation) for slot in self.slots})
        for place, slot in enumerate(slots):
            rows = play.newest[:-1, place * self.k : (place + 1) * self.k]
            own = Moments.of(rows.reshape(-1, *self.spaces.observation))
            self.own[slot] = self.own[slot].merge(own)

    def bundle(self, slot: int, version: int) -> Bundle:
        own = self.own[slot]
        whitening = {"mean": torch.tensor(own.mean).float(), "std": torch.tensor(own.std).float()}
        return Bundle(0, version, self.bundles[version] | whitening)


class FilterPerActor(Reference):
    """All lanes of a slot share one filter."""

    def key(self, slot: int, lane: int) -> tuple[int, int]:
        return slot, 0


class PredictorRowsOfAnotherGenerator(Reference):
    """The samples that the predictor learns from are drawn by another generator."""

    def update(self, version: int) -> None:
        def draw(rows: int, config: Config, generator: torch.Generator) -> Tensor:
            draw_predictor_mask(rows, config, generator)  # the order of the samples stays the same
            return draw_predictor_mask(rows, config, torch.Generator().manual_seed(0))

        with mock.patch.object(learner.training.ppo, "draw_predictor_mask", draw):
            super().update(version)


class BonusOneVersionAhead(Reference):
    """The bonus is computed with statistics that include the batch."""

    def compute_bonus(self, chunks: list[tuple[int, int]], plays: list[Play]) -> np.ndarray:
        before, now = self.observation, max(self.bundles)
        for (slot, _), play in zip(chunks, plays, strict=True):
            self.observe([slot], play)
        self.publish(now)
        self.observation = before
        return super().compute_bonus(chunks, plays)


@pytest.mark.parametrize("env", [POLE], ids=lambda env: env.id)
@pytest.mark.parametrize(
    ("wrong", "touched"),
    [
        (SlotsReversed, "update 0: action"),
        (StatisticsOfActors, "update 0: bonus"),
        (FilterPerActor, "update 0: intrinsic"),
        (PredictorRowsOfAnotherGenerator, "model.predictor.0.weight"),
        (BonusOneVersionAhead, "update 0: bonus"),
    ],
)
def test_a_run_with_a_bug_differs_from_the_right_one(
    wrong: type[Reference], touched: str, env: EnvConfig, lanes_of: Lanes
) -> None:
    config = run_of(env, lanes=4)
    right = Reference(config, lanes_of(env)).run()
    assert differing(right, Reference(config, lanes_of(env)).run()) == []
    found = differing(right, wrong(config, lanes_of(env)).run())
    assert touched in found
    assert {name for name in found if name.startswith("model.policy")}
