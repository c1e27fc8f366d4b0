"""Three updates of the product against the same three in plain float64, written without its code."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import Config, EnvConfig, PPOConfig, RNDConfig, RolloutConfig
from common.protocol.chunk import Chunk
from common.spaces import Spaces
from learner.interface import DecodedChunk
from learner.training.batch import join
from learner.training.trainer import Trainer
from tests.support import plain_update
from tests.support.fake_server import FakeServer, make_trainer
from tests.support.plain_update import Plain

T, B, E, UPDATES = 8, 2, 6, 3
SPACES = Spaces((3,), 1, 4)
CONFIG = Config(
    precision="float32",
    total_steps=5 * T * E,
    env=EnvConfig(reward="scaled"),
    rollout=RolloutConfig(steps=T, lanes=B, batch_lanes=E),
    ppo=PPOConfig(
        epochs=3,
        minibatches=4,
        learning_rate=5e-3,
        anneal=True,
        max_grad_norm=0.2,
        entropy_coef=0.01,
        value_coef=0.5,
        gamma_extrinsic=0.97,
        gamma_intrinsic=0.9,
        gae_lambda=0.8,
        coef_intrinsic=0.5,
        normalise_advantages=True,
    ),
    rnd=RNDConfig(predictor_keep=0.25, learning_rate=5e-4),
)
DEATHS, CUTS = [(2, 0), (7, 1), (4, 4)], [(4, 1), (7, 2), (1, 5), (2, 5)]  # of all lanes; the last row too
RELATIVE = 1e-4  # of the norm of a tensor's change; float32 differs from float64 by about 1e-5
Maker = Callable[..., Chunk]


def chunks_of(make_chunk: Maker, update: int) -> list[DecodedChunk]:
    """Fresh noise of three slots, each with a drift of its own, so that statistics matter."""
    made = []
    for slot in range(E // B):
        ends = [[(t, lane - slot * B) for t, lane in kind if lane // B == slot] for kind in (DEATHS, CUTS)]
        chunk = make_chunk(T, B, SPACES, 10 * update + slot, *ends)
        chunk.observation[:] = chunk.observation * (1 + slot) + update
        made.append(
            DecodedChunk(bytes([slot]) * 16, update, slot, 0, update * T * B, update, update == 0, chunk)
        )
    return made


def plain_of(trainer: Trainer, config: Config) -> Plain:
    policy, predictor, target = (
        net.state_dict() for net in (trainer.ppo.policy, trainer.ppo.predictor, trainer.ppo.target)
    )
    return Plain(config, policy, predictor, target, SPACES.observation[0])


def draws_of(trainer: Trainer, config: Config) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The next draws of the learner: the kept rows of all epochs, then their orders."""
    generator = torch.Generator()
    generator.set_state(trainer.ppo.generator.get_state())
    kept = torch.rand(config.ppo.epochs, T * E, generator=generator) < config.predictor_share
    return kept, [torch.randperm(T * E, generator=generator) for _ in range(config.ppo.epochs)]


def train_both(trainer: Trainer, server: FakeServer, plain: Plain, config: Config, make_chunk: Maker) -> None:
    for update in range(UPDATES):
        chunks = chunks_of(make_chunk, update)
        joined = join([decoded.chunk for decoded in chunks])
        kept, orders = draws_of(trainer, config)
        arrays = {field.name: getattr(joined, field.name) for field in dataclasses.fields(joined)}
        server.chunks.extend(chunks)
        trainer.update()
        assert trainer.status.version == update + 1
        plain.update(arrays, update / config.updates, kept, orders)


def distances(trainer: Trainer, plain: Plain, before: dict[str, torch.Tensor]) -> dict[str, float]:
    """By tensor: how far its changes differ, in the norm of the change."""
    weights = {f"policy.{name}": x for name, x in plain.policy.items()}
    weights |= {f"predictor.{name}": x for name, x in plain.predictor.items()}
    after = trainer.ppo.tensors()
    assert weights.keys() == after.keys()
    found = {}
    for name, x in weights.items():
        change, expected = after[name].double() - before[name].double(), x.detach() - before[name].double()
        assert expected.norm() > 0
        found[name] = float((change - expected).norm() / expected.norm())
    return found


def test_three_updates_change_every_weight_as_plain_code_does(make_chunk: Maker, tmp_path: Path) -> None:
    server = FakeServer()
    trainer = make_trainer(CONFIG, SPACES, server, tmp_path, version=0)
    plain, before = plain_of(trainer, CONFIG), {k: x.clone() for k, x in trainer.ppo.tensors().items()}
    train_both(trainer, server, plain, CONFIG, make_chunk)
    found = distances(trainer, plain, before)
    assert max(found.values()) < RELATIVE, found
    normaliser = trainer.normaliser
    for ours, theirs in (
        (normaliser.observation, plain.observation),
        (normaliser.intrinsic_return, plain.bonus),
        (normaliser.extrinsic_return, plain.reward),
    ):
        np.testing.assert_allclose(ours.mean, theirs.mean(), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(ours.std, theirs.std(), rtol=1e-6)


def with_ppo(**options: float) -> Config:
    return dataclasses.replace(CONFIG, ppo=dataclasses.replace(CONFIG.ppo, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        with_ppo(gamma_intrinsic=0.91),
        with_ppo(gamma_extrinsic=0.96),
        with_ppo(gae_lambda=0.81),
        with_ppo(clip=0.11),
        with_ppo(entropy_coef=0.02),
        with_ppo(value_coef=0.51),
        with_ppo(coef_intrinsic=0.51),
        with_ppo(max_grad_norm=0.21),
        with_ppo(adam_eps=2e-5),
        with_ppo(anneal=False),
    ],
    ids=lambda config: next(
        name for name, x in dataclasses.asdict(config.ppo).items() if x != getattr(CONFIG.ppo, name)
    ),
)
def test_another_setting_changes_the_weights_by_more_than_the_bound(
    other: Config, make_chunk: Maker, tmp_path: Path
) -> None:
    """The bound is narrow enough to detect a small difference of one setting."""
    server = FakeServer()
    trainer = make_trainer(CONFIG, SPACES, server, tmp_path, version=0)
    plain, before = plain_of(trainer, other), {k: x.clone() for k, x in trainer.ppo.tensors().items()}
    train_both(trainer, server, plain, CONFIG, make_chunk)
    assert max(distances(trainer, plain, before).values()) > 2 * RELATIVE


def test_the_plain_code_imports_nothing_of_the_product() -> None:
    tree = ast.parse(Path(plain_update.__file__).read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {module.split(".")[0] for module in modules} & {"actor", "common", "learner", "tests"}
