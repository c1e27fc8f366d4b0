"""Known bugs of PPO and RND, each put into the product at one place: the named test must notice.

A row rewrites one expression of one function, wherever that function is imported, and expects the test
beside it to fail. All of these tests run unharmed where they are defined.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch

from actor.service import Actor
from common import envs
from common.config import EnvConfig, NetworkConfig
from common.model import networks, rnd
from common.model.bonus import BonusModel
from common.model.policy import Policy
from common.rng import RngKey, environment_seeds
from common.spaces import Spaces
from learner.training import advantages, batch, losses, running_stats, samples, targets
from learner.training.batch_builder import BatchBuilder
from learner.training.normaliser import Normaliser
from learner.training.ppo import PPO
from learner.training.trainer import Trainer
from tests.support.mutation import Mutant, check_noticed
from tests.unit.common import test_bonus, test_rnd, test_rng
from tests.unit.learner import (
    test_advantages,
    test_batch,
    test_losses,
    test_normaliser,
    test_oracles,
    test_ppo,
    test_probes,
    test_running_stats,
)

# Facts that no other module states.


@pytest.fixture(scope="module")
def breakout() -> Iterator[envs.VectorEnv]:
    """Two lanes; loading the game takes seconds."""
    env = envs.make(EnvConfig(id="breakout", sticky=0.25), 2)
    yield env
    env.close()


def test_lanes_repeat_actions_independently_of_each_other(breakout: envs.VectorEnv) -> None:
    # No ball is served: only the paddle moves, and going right and left by turns leaves every image as it
    # was two steps before, unless an action was repeated.
    breakout.reset(environment_seeds(RngKey(1, 0, 0, warmup=False).generators(2)))
    right, left = np.full(2, 2, np.int32), np.full(2, 3, np.int32)
    images = np.stack([breakout.step((right, left)[t % 2]).stack[:, -1] for t in range(400)])
    repeated = (images[2:] != images[:-2]).any((2, 3))
    assert (repeated.mean(0) > 0.2).all()
    assert (repeated.mean(0) < 0.8).all()
    assert abs(np.corrcoef(repeated.T)[0, 1]) < 0.2


@pytest.mark.parametrize("spaces", [Spaces((84, 84), 4, 3), Spaces((5,), 1, 3)], ids=["images", "vectors"])
def test_values_of_both_streams_have_either_sign(spaces: Spaces) -> None:
    generator = torch.Generator().manual_seed(0)
    stack = torch.randint(0, 256, (1, spaces.stack, *spaces.observation), generator=generator).float()
    with torch.no_grad():
        outputs = [networks.make_policy(spaces, NetworkConfig(), seed)(stack) for seed in range(8)]
    for values in ([x.value_extrinsic for x in outputs], [x.value_intrinsic for x in outputs]):
        assert min(values) < 0 < max(values)


def novelty_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured without the bug does not count."""
    monkeypatch.setattr(test_bonus, "bonuses", test_bonus.bonuses.__wrapped__)
    test_bonus.test_whitening_makes_novelty_independent_of_scale()


FRESH_BONUS, STALE_BONUS = (
    partial(test_probes.test_a_step_is_paid_what_the_newest_predictor_says_of_where_it_led, lag)
    for lag in (0, 1)
)
MUTANTS = [
    # The forward filter of the bonus.
    Mutant(
        "filter over lanes",
        running_stats.forward_filter,
        "carry = gamma * carry + row",
        "carry = np.array([row[: b + 1] @ gamma ** np.arange(b, -1.0, -1.0) for b in range(len(row))])",
        test_oracles.test_lanes_of_constant_bonus_spread_as_far_as_their_horizons,
    ),
    Mutant(
        "filter transposed",
        Normaliser.scale,
        "carry, bonus[:, columns], self",
        "carry, bonus[:, columns].T, self",
        test_normaliser.test_all_lanes_share_one_divisor,
        ValueError,
    ),
    Mutant(
        "filter reversed",
        running_stats.forward_filter,
        "enumerate(reward)",
        "reversed(list(enumerate(reward)))",
        test_running_stats.test_the_filter_is_the_discounted_sum_of_the_past,
    ),
    Mutant(
        "filter reset at ends",
        BatchBuilder.build,
        "scale(joined.bonus, [decoded.slot for decoded in chunks])",
        "scale_reward(joined.bonus, joined.done, [(decoded.slot, 0, False) for decoded in chunks])",
        test_probes.test_no_end_interrupts_the_discounted_bonuses_of_a_lane,
    ),
    Mutant(
        "filter reset at chunks",
        Normaliser.scale,
        "self._filters.get(slot, np.zeros(self._lanes))",
        "np.zeros(self._lanes)",
        test_normaliser.test_the_filter_continues_over_chunks,
    ),
    # Which observation is rated.
    Mutant(
        "actor rates the current observation",
        Actor._play,
        "chunk.observation[state.spaces.stack :]",
        "chunk.observation[state.spaces.stack - 1 : -1]",
        FRESH_BONUS,
    ),
    Mutant(
        "learner rates the current observation",
        BatchBuilder._recompute_stale_bonuses,
        "joined.observation[self._spaces.stack :, lanes]",
        "joined.observation[self._spaces.stack - 1 : -1, lanes]",
        STALE_BONUS,
    ),
    Mutant(
        "predictor learns the current observation",
        batch.make_batch,
        "observation[spaces.stack :]",
        "observation[spaces.stack - 1 : -1]",
        test_probes.test_the_predictor_learns_where_each_step_led_whitened_with_all_that_is_known,
    ),
    # Where credit stops.
    Mutant(
        "ends leak into the intrinsic stream",
        targets.compute_targets,
        "torch.full_like(value, ppo.gamma_intrinsic)",
        "ppo.gamma_intrinsic * (~batch.done).float()",
        test_probes.test_novelty_has_a_horizon_where_every_step_ends_an_episode,
    ),
    Mutant(
        "traces run through ends",
        advantages.extrinsic_ends,
        "gamma * lam * (~done).float()",
        "gamma * lam * torch.ones(done.shape)",
        test_advantages.test_credit_never_crosses_an_end_of_the_extrinsic_stream,
    ),
    Mutant(
        "values run through ends",
        advantages.extrinsic_ends,
        "gamma * (~cut).float()",
        "gamma * torch.ones(cut.shape)",
        partial(test_probes.test_the_value_of_a_single_step_is_its_reward, 1.0),
    ),
    Mutant(
        "no bootstrap at a time limit",
        advantages.extrinsic_ends,
        "cut = done if time_limit_is_end else terminated",
        "cut = done",
        test_probes.test_a_task_without_end_is_worth_its_horizon_however_often_it_is_cut,
    ),
    Mutant(
        "bootstrap from the next episode",
        targets.compute_targets,
        ".masked_scatter(batch.truncated, values.final_extrinsic)",
        ".clone()",
        test_ppo.test_a_time_limit_bootstraps_from_the_final_observation,
    ),
    # The ratio compares what acted with what is trained.
    Mutant(
        "training does not whiten",
        batch.make_batch,
        "(rnd.whiten(x, mean, std, rnd.POLICY_CLIP) for x in (observation, final))",
        "(x.float() for x in (observation, final))",
        test_probes.test_learner_and_actor_agree_on_every_fresh_action,
    ),
    Mutant(
        "acting clips like the bonus",
        Policy.parameters,
        "self._mean, self._std, rnd.POLICY_CLIP",
        "self._mean, self._std",
        test_probes.test_learner_and_actor_agree_on_every_fresh_action,
    ),
    Mutant(
        "training whitens with the next version's statistics",
        BatchBuilder.build,
        "self._spaces, acting, self._device",
        "self._spaces, updated.observation_statistics(), self._device",
        test_probes.test_learner_and_actor_agree_on_every_fresh_action,
    ),
    Mutant(
        "training is one step ahead",
        samples.make_samples,
        "batch.stack[:-1].flatten(0, 1)",
        "batch.stack[1:].flatten(0, 1)",
        test_probes.test_learner_and_actor_agree_on_every_fresh_action,
    ),
    Mutant(
        "training sees stacks in reverse",
        batch.restack,
        "for k in range(size)]",
        "for k in reversed(range(size))]",
        partial(test_batch.test_stacks_are_those_the_policy_saw, []),
    ),
    Mutant(
        "training sees images of the last episode",
        batch.restack,
        "stack[t + 1 + since, lane, ..., : size - 1 - since] = 0",
        "pass",
        partial(test_batch.test_stacks_are_those_the_policy_saw, [(3, 1)]),
    ),
    # The scale of rewards.
    Mutant(
        "bonus scaled by lane",
        Normaliser.scale,
        "bonus / self.intrinsic_return.std",
        "bonus / filtered.std(0)",
        test_normaliser.test_all_lanes_share_one_divisor,
    ),
    Mutant(
        "bonus scaled by actor",
        Normaliser.scale,
        "bonus / self.intrinsic_return.std",
        "bonus / np.repeat(filtered.reshape(len(bonus), -1, self._lanes).std((0, 2)), self._lanes)",
        test_normaliser.test_all_lanes_share_one_divisor,
    ),
    Mutant(
        "reward scaled by lane",
        Normaliser.scale_reward,
        "reward / self.extrinsic_return.std",
        "reward / filtered.std(0)",
        test_normaliser.test_all_lanes_share_one_scale_of_rewards_and_no_mean_is_subtracted,
    ),
    Mutant(
        "mean subtracted from the intrinsic reward",
        Normaliser.scale,
        "bonus / self.intrinsic_return.std",
        "(bonus - bonus.mean()) / self.intrinsic_return.std",
        test_normaliser.test_the_first_batch_is_divided_by_a_std_that_knows_it,
    ),
    Mutant(
        "mean subtracted from the bonus",
        rnd.bonus,
        "torch.cat(parts)",
        "torch.cat(parts) - torch.cat(parts).mean()",
        partial(test_rnd.test_the_bonus_is_the_error_on_each_whitened_observation_alone, 5),
    ),
    # Predictor and target.
    Mutant(
        "predictor is not trained",
        PPO._step,
        "ppo.value_coef * loss_i + predictor_loss",
        "ppo.value_coef * loss_i",
        test_probes.test_the_bonus_fades_where_the_run_has_been,
    ),
    Mutant(
        "target moves with every step",
        PPO._step,
        "self.optimiser.step()",
        "self.optimiser.step(); torch._foreach_mul_(list(self.target.parameters()), 0.9999)",
        test_oracles.test_a_hundred_updates_leave_the_target_as_it_was,
    ),
    Mutant(
        "no whitening",
        rnd.whiten,
        "(observation.float() - mean) / std",
        "observation.float()",
        novelty_anew,
    ),
    Mutant(
        "bonus without whitening",
        rnd.bonus,
        "x = whiten(rows, mean, std)",
        "x = rows.float()",
        FRESH_BONUS,
    ),
    Mutant(
        "predictor learns without whitening",
        PPO._predictor_loss,
        "rnd.whiten(samples.next_observation[kept], *statistics)",
        "samples.next_observation[kept].float()",
        test_probes.test_the_predictor_learns_where_each_step_led_whitened_with_all_that_is_known,
    ),
    Mutant(
        "target sees no whitening",
        PPO._target_features,
        "rnd.whiten(flat[some], *statistics)",
        "flat[some].float()",
        test_probes.test_the_predictor_learns_where_each_step_led_whitened_with_all_that_is_known,
    ),
    # Skewed bundles.
    Mutant(
        "actor keeps its first statistics for the bonus",
        BonusModel.load,
        'self._mean, self._std = bundle.tensors["mean"], bundle.tensors["std"]',
        "pass",
        FRESH_BONUS,
    ),
    Mutant(
        "actor keeps its first predictor",
        BonusModel.load,
        'self._predictor.load_state_dict(bundle.part("predictor"))',
        "pass",
        FRESH_BONUS,
    ),
    Mutant(
        "learner rates with the next version's statistics",
        BatchBuilder.build,
        "shift = self._recompute_stale_bonuses(joined, lag, acting)",
        "normaliser.observe(joined.observation); "
        "shift = self._recompute_stale_bonuses(joined, lag, normaliser.observation_statistics())",
        STALE_BONUS,
    ),
    # Heads, schedule, shapes.
    Mutant(
        "ReLU on the values",
        networks.VectorPolicy.forward,
        "_tanh_output(self.critic, x)",
        "F.relu(_tanh_output(self.critic, x))",
        partial(test_probes.test_the_value_of_a_single_step_is_its_reward, -1.0),
    ),
    Mutant(
        "ReLU on the values of images",
        networks.ImagePolicy.forward,
        "_head(self.values, x.float() + F.relu(self.value_branch(x)))",
        "F.relu(_head(self.values, x.float() + F.relu(self.value_branch(x))))",
        partial(test_values_of_both_streams_have_either_sign, Spaces((84, 84), 4, 3)),
    ),
    Mutant(
        "learning rate below zero from half way",
        PPO.update,
        "1.0 - progress",
        "1.0 - 2 * progress",
        test_probes.test_annealing_begins_at_the_whole_rate_and_ends_above_zero,
    ),
    Mutant(
        "learning rate below zero at the end",
        Trainer._train,
        "self._status.version / self._config.updates",
        "(self._status.version + 1) / (self._config.updates - 1)",
        test_probes.test_annealing_begins_at_the_whole_rate_and_ends_above_zero,
    ),
    Mutant(
        "value loss of N x N pairs",
        losses.value_loss,
        "(value - target)",
        "(value.unsqueeze(1) - target)",
        test_losses.test_the_value_gradient_is_the_error,
    ),
    Mutant(
        "values [N, 1] in the loss",
        PPO._step,
        "value_loss(output.value_extrinsic, ",
        "value_loss(output.value_extrinsic.unsqueeze(1), ",
        test_probes.test_a_reward_at_the_end_is_discounted_once_a_step_before,
    ),
    Mutant(
        "advantages [N, 1] in the loss",
        PPO._step,
        "clipped_policy_loss(log_prob, old, advantage, clip)",
        "clipped_policy_loss(log_prob, old, advantage.unsqueeze(1), clip)",
        test_probes.test_the_action_that_pays_in_a_state_is_taken_there,
    ),
    # One coin for all.
    Mutant(
        "lanes share their random stream",
        RngKey.generators,
        "[*key, lane, *phase]",
        "[*key, *phase]",
        test_lanes_repeat_actions_independently_of_each_other,
    ),
    Mutant(
        "lanes share their sticky coin",
        envs._Atari.reset,
        "seed=seeds & 0x7FFFFFFF",
        "seed=np.full_like(seeds, 5)",
        test_lanes_repeat_actions_independently_of_each_other,
    ),
    Mutant(
        "actors share their random streams",
        RngKey.generators,
        "key = [self.seed, self.slot, self.incarnation]",
        "key = [self.seed, self.incarnation]",
        test_rng.test_different_keys_share_no_stream,
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.bug for mutant in MUTANTS])
def test_the_bug_is_noticed(mutant: Mutant, request: pytest.FixtureRequest) -> None:
    check_noticed(mutant, request)
