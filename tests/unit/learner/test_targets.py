"""The targets of fresh and stale data, compared with slow loops and sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.config import Config, EnvConfig, PPOConfig, RNDConfig, RolloutConfig
from common.protocol.chunk import VALUE_LIMIT, Chunk
from common.spaces import Spaces
from learner.training.batch import Batch, make_batch
from learner.training.targets import (
    WEIGHT_CAP,
    Targets,
    Values,
    compute_targets,
    explained_variance,
    staleness,
)

T, E = 7, 5
SPACES = Spaces((2,), 1, 3)
TERMINATIONS, TIME_LIMITS = [(2, 0), (6, 3)], [(4, 1), (6, 2)]
FRESH, STALE, MIXED = [0] * E, [1, 2, 1, 3, 1], [0, 2, 1, 0, 1]
PPO = PPOConfig(
    gamma_extrinsic=0.97,
    gamma_intrinsic=0.9,
    gae_lambda=0.8,
    coef_extrinsic=2.0,
    coef_intrinsic=0.5,
    minibatches=1,
)
CONFIG = Config(
    max_lag=3, env=EnvConfig(reward="raw"), rollout=RolloutConfig(steps=T, lanes=1, batch_lanes=E), ppo=PPO
)
Maker = Callable[..., Chunk]


def batch_of(make_chunk: Maker, lag: list[int]) -> Batch:
    """Noise with two terminations and two time limits, one of each in the last row."""
    chunk = make_chunk(T, E, SPACES, 0, terminated=TERMINATIONS, truncated=TIME_LIMITS)
    statistics = torch.zeros(2), torch.ones(2)
    return make_batch(
        chunk, np.array(lag), chunk.reward, chunk.bonus, SPACES, statistics, torch.device("cpu")
    )


def values_of(batch: Batch, spread: float) -> Values:
    """Noise, with log-probabilities that are about `spread` from those of the batch."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return Values(
        batch.log_prob + spread * normal(T, E), normal(T + 1, E), normal(T + 1, E), normal(len(TIME_LIMITS))
    )


def same(one: Targets, other: Targets) -> bool:
    """Whether two targets are equal bit for bit."""
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in Targets.__slots__)


def next_values(values: Values) -> np.ndarray:
    """Extrinsic values of the states after each action; at a termination they have no effect."""
    after = values.extrinsic[1:].numpy().copy()
    for k, place in enumerate(TIME_LIMITS):
        after[place] = values.final_extrinsic[k]
    return after


def plain_gae(
    reward: np.ndarray, value: np.ndarray, after: np.ndarray, gamma: float, trace: float, ends: bool
) -> np.ndarray:
    """GAE of one lane and one step at a time, in float32."""
    one = np.float32
    out = np.zeros((T, E), np.float32)
    for lane in range(E):
        later = one(0)
        for t in reversed(range(T)):
            terminal, truncated = ends and (t, lane) in TERMINATIONS, ends and (t, lane) in TIME_LIMITS
            error = (
                one(reward[t, lane] + one(one(0 if terminal else gamma) * after[t, lane])) - value[t, lane]
            )
            later = one(error + one(one(0 if terminal or truncated else trace) * later))
            out[t, lane] = later
    return out


@pytest.mark.parametrize("spread", [0.0, 1e-3, 2.0], ids=["exact", "noisy", "foreign"])
def test_at_lag_0_the_targets_are_those_of_plain_gae_to_the_last_bit(
    spread: float, make_chunk: Maker
) -> None:
    """The weight is exactly 1 for any log-probabilities of the batch."""
    batch = batch_of(make_chunk, FRESH)
    values = values_of(batch, spread)
    reward, bonus = batch.reward.numpy(), batch.intrinsic.numpy()
    value_e, value_i = values.extrinsic.numpy(), values.intrinsic.numpy()
    extrinsic = plain_gae(reward, value_e[:-1], next_values(values), 0.97, 0.97 * 0.8, True)
    trace = float(np.float32(0.9) * np.float32(0.8))
    intrinsic = plain_gae(bonus, value_i[:-1], value_i[1:], 0.9, trace, False)
    found = compute_targets(batch, values, CONFIG)
    np.testing.assert_array_equal(found.extrinsic, value_e[:-1] + extrinsic)
    np.testing.assert_array_equal(found.intrinsic, value_i[:-1] + intrinsic)
    np.testing.assert_array_equal(found.advantage, np.float32(2) * extrinsic + np.float32(0.5) * intrinsic)
    assert torch.equal(found.weight, torch.ones(T, E))


def eq_1(
    reward: Tensor, value: Tensor, after: Tensor, discount: Tensor, trace: Tensor, rho: Tensor
) -> tuple[Tensor, Tensor]:
    """V-trace as in the paper: each target is a sum over all later errors; the advantages follow from it."""
    capped, error = rho.clamp(max=1.0), reward + discount * after - value
    target = value.clone()
    for s in range(T):
        for t in range(s, T):
            target[s] += (trace[s:t] * capped[s:t]).prod(0) * capped[t] * error[t]
    advantage = error.clone()
    advantage[:-1] += trace[:-1] * (target - value)[1:]
    return advantage, target


@pytest.mark.parametrize("lag", [STALE, MIXED], ids=["stale", "mixed"])
def test_above_lag_0_both_streams_have_the_targets_of_vtrace(lag: list[int], make_chunk: Maker) -> None:
    """Espeholt et al. 2018, eq. 1, with lambda in the traces and both caps at 1; lag 0 counts as rho 1."""
    batch = batch_of(make_chunk, lag)
    values = values_of(batch, 1.0)
    difference = (values.log_prob - batch.log_prob).double()
    rho = torch.where(torch.tensor(lag) > 0, difference, 0.0).exp()
    assert (rho < 0.9).any()
    assert (rho > WEIGHT_CAP).any()
    discount, trace = torch.full((2, T, E), 0.97, dtype=torch.float64)
    trace = trace * 0.8
    for place in TERMINATIONS:
        discount[place] = trace[place] = 0.0
    for place in TIME_LIMITS:
        trace[place] = 0.0
    after = torch.from_numpy(next_values(values)).double()
    value_e, value_i = values.extrinsic.double(), values.intrinsic.double()
    advantage_e, target_e = eq_1(batch.reward.double(), value_e[:-1], after, discount, trace, rho)
    constant = torch.full((T, E), 0.9, dtype=torch.float64)
    advantage_i, target_i = eq_1(
        batch.intrinsic.double(), value_i[:-1], value_i[1:], constant, constant * 0.8, rho
    )
    found = compute_targets(batch, values, CONFIG)
    close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found.extrinsic.double(), target_e, **close)
    torch.testing.assert_close(found.intrinsic.double(), target_i, **close)
    torch.testing.assert_close(found.advantage.double(), 2.0 * advantage_e + 0.5 * advantage_i, **close)
    torch.testing.assert_close(found.weight.double(), rho.clamp(max=WEIGHT_CAP), **close)


def test_stale_intrinsic_traces_run_through_ends_and_extrinsic_ones_do_not(make_chunk: Maker) -> None:
    batch = batch_of(make_chunk, STALE)
    values = values_of(batch, 0.3)
    late = torch.zeros(T, E)
    late[5] = 100.0  # after the termination in lane 0 and the time limit in lane 1
    later = replace(batch, reward=batch.reward + late, intrinsic=batch.intrinsic + late)
    before, after = compute_targets(batch, values, CONFIG), compute_targets(later, values, CONFIG)
    reached = {
        "extrinsic": after.extrinsic != before.extrinsic,
        "intrinsic": after.intrinsic != before.intrinsic,
    }
    assert reached["intrinsic"][:6].all()
    first = [3, 5, 0, 0, 0]  # by lane, the first step that changes
    for lane, start in enumerate(first):
        assert reached["extrinsic"][:, lane].tolist() == [start <= t <= 5 for t in range(T)]


def test_the_weight_of_a_stale_action_is_capped_at_2(make_chunk: Maker) -> None:
    batch = batch_of(make_chunk, MIXED)
    values = replace(values_of(batch, 0.0), log_prob=batch.log_prob + math.log(7.0))
    weight = compute_targets(batch, values, CONFIG).weight
    assert weight.unique(dim=0).tolist() == [[1.0, 2.0, 2.0, 1.0, 2.0]]
    lower = replace(values, log_prob=batch.log_prob - math.log(7.0))
    torch.testing.assert_close(
        compute_targets(batch, lower, CONFIG).weight[0], torch.tensor([1, 1 / 7, 1 / 7, 1, 1 / 7])
    )


def test_without_correction_stale_data_counts_as_fresh(make_chunk: Maker) -> None:
    plain = replace(CONFIG, ppo=replace(PPO, correct_lag=False))
    stale, fresh = batch_of(make_chunk, STALE), batch_of(make_chunk, FRESH)
    values = values_of(stale, 1.0)
    found = compute_targets(stale, values, plain)
    assert same(found, compute_targets(fresh, values, CONFIG))
    assert not same(found, compute_targets(stale, values, CONFIG))


def test_without_a_bonus_the_intrinsic_stream_has_no_effect(make_chunk: Maker) -> None:
    batch = batch_of(make_chunk, MIXED)
    values = values_of(batch, 1.0)
    alone = compute_targets(batch, values, replace(CONFIG, rnd=RNDConfig(enabled=False)))
    both = compute_targets(batch, values, CONFIG)
    assert not alone.intrinsic.any()
    assert torch.equal(alone.extrinsic, both.extrinsic)
    weightless = replace(CONFIG, ppo=replace(PPO, coef_intrinsic=0.0))
    assert torch.equal(alone.advantage, compute_targets(batch, values, weightless).advantage)


def test_a_lost_life_ends_the_extrinsic_return_if_the_setting_says_so(make_chunk: Maker) -> None:
    """It then equals a termination for the extrinsic stream; the intrinsic stream does not change."""
    batch = batch_of(make_chunk, FRESH)
    lost = torch.zeros(T, E, dtype=torch.bool)
    lost[3, 2] = True
    values = values_of(batch, 0.0)
    cut = replace(CONFIG, env=replace(CONFIG.env, life_loss_is_end=True))
    plain = compute_targets(batch, values, CONFIG)
    assert same(compute_targets(replace(batch, life_lost=lost), values, CONFIG), plain)
    found = compute_targets(replace(batch, life_lost=lost), values, cut)
    terminal = compute_targets(replace(batch, terminated=batch.terminated | lost), values, CONFIG)
    assert same(found, terminal)
    assert not torch.equal(found.extrinsic, plain.extrinsic)
    assert torch.equal(found.intrinsic, plain.intrinsic)


def test_targets_do_not_change_their_inputs(make_chunk: Maker) -> None:
    batch = batch_of(make_chunk, MIXED)
    values = values_of(batch, 1.0)
    inputs = [getattr(batch, name) for name in ("reward", "intrinsic", "log_prob", "lag")]
    inputs += [getattr(values, name) for name in Values.__slots__]
    copies = [x.clone() for x in inputs]
    compute_targets(batch, values, CONFIG)
    assert all(torch.equal(x, copy) for x, copy in zip(inputs, copies, strict=True))


def test_staleness_of_a_batch_with_known_ratios(make_chunk: Maker) -> None:
    """Two fresh lanes with small differences, one action 4 times likelier and one half as likely."""
    chunk = make_chunk(1, 4, SPACES, 0)
    lag, statistics = np.array([0, 0, 1, 2]), (torch.zeros(2), torch.ones(2))
    batch = make_batch(chunk, lag, chunk.reward, chunk.bonus, SPACES, statistics, torch.device("cpu"))
    ratio = torch.tensor([math.exp(0.01), math.exp(-0.02), 4.0, 0.5])
    none = torch.zeros(2, 4)
    values = Values(batch.log_prob + ratio.log(), none, none, torch.zeros(0))
    found = staleness(batch, values, compute_targets(batch, values, CONFIG))
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {
            "actor_learner_log_prob_diff_max": 0.02,  # of fresh lanes only
            "kl_behaviour": sum(r - 1 - math.log(r) for r in ratio.tolist()) / 4,
            "weight_capped": 1 / 4,
            "effective_samples": (1 + 1 + 2 + 0.5) ** 2 / (4 * (1 + 1 + 4 + 0.25)),
        },
        abs=1e-6,
    )


def test_the_staleness_of_actions_that_were_almost_impossible_is_finite(make_chunk: Maker) -> None:
    """An actor that claims the smallest accepted log-probabilities does not make an update infinite."""
    batch = batch_of(make_chunk, MIXED)
    values = values_of(batch, 0.0)
    batch = replace(batch, log_prob=torch.full_like(batch.log_prob, -VALUE_LIMIT))
    found = staleness(batch, values, compute_targets(batch, values, CONFIG))
    assert all(torch.isfinite(value) for value in found.values())


def test_fresh_data_is_all_effective_and_nothing_is_capped(make_chunk: Maker) -> None:
    batch = batch_of(make_chunk, FRESH)
    values = values_of(batch, 0.0)
    found = staleness(batch, values, compute_targets(batch, values, CONFIG))
    assert {name: float(value) for name, value in found.items()} == {
        "actor_learner_log_prob_diff_max": 0.0,
        "kl_behaviour": 0.0,
        "weight_capped": 0.0,
        "effective_samples": 1.0,
    }


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0, 30.0])
def test_explained_variance_is_the_share_that_the_value_heads_predict(noise: float) -> None:
    """It is 1 for a perfect head, 0 for a constant head, and at least -1 for any other."""
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(400, 50, generator=generator)
    value = torch.cat([(1 - noise) * target + 3.0, torch.zeros(1, 50)])  # an offset is no error
    values = Values(torch.zeros(400, 50), value, torch.zeros(401, 50), torch.zeros(0))
    found = explained_variance(values, Targets(target, target, torch.full((400, 50), 7.0), target))
    assert float(found["explained_variance_extrinsic"]) == pytest.approx(max(-1.0, 1 - noise**2), abs=1e-5)
    assert float(found["explained_variance_intrinsic"]) == 0.0  # its targets are constant
