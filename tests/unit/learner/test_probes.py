"""Whole runs on tasks so small that the values to learn and to compute are known exactly."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.atari import Transition
from common.config import Config, EnvConfig, NetworkConfig, PPOConfig, RNDConfig, RolloutConfig
from common.process.lifecycle import Fatal
from learner.training.normaliser import Normaliser
from learner.training.ppo import PPO
from tests.support.probe_envs import Array, Loop, Probe

Statistics = tuple[Tensor, Tensor]  # mean and standard deviation of observations

T, B = 6, 7
GAMMA = 0.9
CPU = torch.device("cpu")
UPDATES = 40
NO_BONUS = RNDConfig(enabled=False, warmup_steps=0)
BONUS = RNDConfig(warmup_steps=0, predictor_keep=1.0)
FAR = 100.0  # a scale of observations at which whitening matters


def config(updates: int = UPDATES, bonus: RNDConfig = NO_BONUS, **ppo: object) -> Config:
    """A short run of one actor on raw rewards."""
    options = {
        "epochs": 4,
        "minibatches": 1,
        "learning_rate": 1e-2,
        "gamma_extrinsic": GAMMA,
        "gamma_intrinsic": GAMMA,
    }
    return Config(
        precision="float32",
        total_steps=updates * T * B,
        env=EnvConfig(reward="raw"),
        rollout=RolloutConfig(steps=T, lanes=B, batch_lanes=B),
        ppo=PPOConfig(**(options | ppo)),  # type: ignore[arg-type]
        rnd=bonus,
        network=NetworkConfig(hidden=16),
    )


def one(state: Array, action: Array) -> Array:
    return np.ones(len(state))


def errors(network: nn.Module, target: nn.Module, statistics: Statistics, observation: Array) -> Tensor:
    """Compute the prediction error of each observation by its definition, [T, B, D] -> [T, B]."""
    mean, std = statistics
    white = torch.clip((torch.tensor(observation) - mean) / std, -5, 5)
    with torch.no_grad():
        return torch.stack([(network(row) - target(row)).square().mean(1) for row in white])


def ring() -> Probe:
    """A ring that is longer than a short run, so that each batch has new states."""
    return Probe(50, one, scale=FAR)


def bonuses(loop: Loop) -> list[Array]:
    """The bonuses of each later update, [T, B], as they reach the normaliser."""
    seen: list[Array] = []

    class Recording(Normaliser):
        def scale_bonus(self, bonus: Array, slots: Sequence[int]) -> Array:
            seen.append(bonus.copy())
            return super().scale_bonus(bonus, slots)

    recording = Recording(loop.probe.spaces, loop.config)
    recording.load(loop.trainer.normaliser.state())
    loop.trainer.normaliser = recording
    return seen


@pytest.mark.parametrize("reward", [1.0, -1.0])
def test_the_value_of_a_single_step_is_its_reward(reward: float) -> None:
    loop = Loop(Probe(1, lambda state, action: reward * one(state, action)), config()).run()
    assert loop.outputs().value_extrinsic.tolist() == pytest.approx([reward], abs=0.02)


def test_a_reward_at_the_end_is_discounted_once_a_step_before() -> None:
    gamma = 0.5  # far from 1, so that one value for both states would be wrong
    loop = Loop(Probe(2, lambda state, action: state == 1), config(gamma_extrinsic=gamma)).run()
    assert loop.outputs().value_extrinsic.tolist() == pytest.approx([gamma, 1.0], abs=0.02)


def test_the_rewarded_action_of_each_state_is_taken() -> None:
    loop = Loop(Probe(2, lambda state, action: action == state), config()).run()
    assert (loop.outputs().distribution_parameters.softmax(1).diag() > 0.95).all()


def test_values_bootstrap_at_time_limits() -> None:
    loop = Loop(Probe(5, one, time_limit=True), config()).run()
    assert loop.outputs().value_extrinsic.tolist() == pytest.approx([1 / (1 - GAMMA)] * 5, abs=0.2)


def test_values_stop_at_time_limits_that_count_as_ends() -> None:
    task = EnvConfig(reward="raw", time_limit_is_end=True)
    loop = Loop(Probe(5, one, time_limit=True), replace(config(), env=task)).run()
    left = [(1 - GAMMA**steps) / (1 - GAMMA) for steps in (5, 4, 3, 2, 1)]
    assert left[0] == pytest.approx(4.1, abs=0.01)
    assert loop.outputs().value_extrinsic.tolist() == pytest.approx(left, abs=0.05)


def test_intrinsic_values_continue_where_every_step_ends_an_episode() -> None:
    loop = Loop(Probe(1, one), config(bonus=BONUS))
    loop.trainer.normaliser.scale_bonus = lambda bonus, slots: np.ones_like(bonus)  # type: ignore[method-assign]
    output = loop.run().outputs()
    assert output.value_intrinsic.tolist() == pytest.approx([1 / (1 - GAMMA)], abs=0.2)
    assert output.value_extrinsic.tolist() == pytest.approx([1.0], abs=0.02)


def test_a_continuous_action_moves_to_the_highest_reward() -> None:
    best = 0.5
    probe = Probe(1, lambda state, action: -np.square(action[:, 0] - best), bounds=((-2.0, 2.0),))
    mean, log_std = Loop(probe, config()).run().outputs().distribution_parameters[0].tolist()
    assert mean == pytest.approx(best, abs=0.1)
    assert log_std < -0.5


@pytest.mark.parametrize("lag", [0, 1])
def test_the_bonus_of_a_step_is_the_error_of_the_newest_predictor_on_the_next_observation(lag: int) -> None:
    loop = Loop(ring(), config(4, BONUS), lag)
    recorded, ppo = bonuses(loop), loop.trainer.ppo
    for _ in range(4):
        predictor, acted_under = copy.deepcopy(ppo.predictor), loop.statistics()
        loop.update()
        next_observation = loop.delivered.chunk.observation[1:]
        np.testing.assert_allclose(
            recorded[-1], errors(predictor, ppo.target, acted_under, next_observation), rtol=1e-3
        )


def test_the_predictor_learns_next_observations_whitened_with_statistics_that_include_the_batch() -> None:
    loop = Loop(ring(), config(4, BONUS, epochs=1))
    ppo = loop.trainer.ppo
    for _ in range(4):
        predictor = copy.deepcopy(ppo.predictor)
        report = loop.update()
        next_observation = loop.delivered.chunk.observation[1:]
        error = errors(predictor, ppo.target, loop.statistics(), next_observation)
        assert report.figures["predictor_loss"] == pytest.approx(float(error.mean()), rel=1e-4)


def test_learner_and_actor_compute_the_same_log_probs_of_fresh_actions() -> None:
    loop = Loop(ring(), config(4, BONUS, epochs=1)).run()
    for report in loop.reports:
        assert report.figures["actor_learner_log_prob_diff_max"] < 1e-5
        assert report.figures["clip_fraction"] == 0.0
        assert abs(report.figures["approx_kl"]) < 1e-6


def test_the_bonus_falls_on_visited_states() -> None:
    loop = Loop(Probe(3, one, scale=FAR), config(bonus=BONUS)).run()
    ppo, fresh = loop.trainer.ppo, PPO(loop.config, loop.probe.spaces, CPU)
    before, after = (
        errors(x.predictor, x.target, loop.statistics(), loop.probe.states[:, None]) for x in (fresh, ppo)
    )
    assert (before > 20 * after).all()


def test_no_end_interrupts_the_discounted_bonuses_of_a_lane() -> None:
    loop, level, filtered = Loop(Probe(1, one), config(4, BONUS)), np.zeros(B), []
    for _ in range(4):
        loop.update()
        for row in loop.delivered.chunk.bonus:
            level = GAMMA * level + row
            filtered.append(level)
    returns = loop.trainer.normaliser.intrinsic_return
    assert float(returns.mean) == pytest.approx(np.mean(filtered), rel=1e-5)
    assert float(returns.std) == pytest.approx(np.std(filtered), rel=1e-5)


def test_annealing_begins_at_the_full_rate_and_ends_above_zero() -> None:
    updates = 7
    loop = Loop(Probe(1, one), config(updates, anneal=True)).run()
    rates = [report.learning_rate / loop.config.ppo.learning_rate for report in loop.reports]
    assert rates == pytest.approx([1 - done / updates for done in range(updates)])
    assert all(0 < rate <= 1 for rate in rates)


@pytest.mark.parametrize("reward", [math.nan, math.inf, -1.01e6])
def test_a_reward_beyond_the_limit_ends_the_actor_with_one_sentence(reward: float) -> None:
    """The learner would refuse this chunk and every later one."""
    with pytest.raises(Fatal, match=r"expected finite rewards within 1e\+06 from the environment"):
        Loop(Probe(3, lambda state, action: np.full(len(state), reward)), config()).update()


@pytest.mark.parametrize("time_limit", [False, True])
def test_an_observation_beyond_the_limit_ends_the_actor_with_one_sentence(time_limit: bool) -> None:
    probe = Probe(3, one, scale=1e7, time_limit=time_limit)
    with pytest.raises(Fatal, match=r"expected finite observations within 1e\+06 from the environment"):
        Loop(probe, config()).update()


def test_only_the_last_observation_of_an_episode_is_beyond_the_limit() -> None:
    """It is sent apart from the others, and the actor ends as well."""

    class FarEnd(Probe):
        def step(self, action: Array) -> Transition:
            transition = super().step(action)
            return transition._replace(final=transition.final + 1e7)

    with pytest.raises(Fatal, match="expected finite observations"):
        Loop(FarEnd(3, one, time_limit=True), config()).update()
