"""Known bugs of PPO, each put into the product at one place: the named test must fail.

A row rewrites one expression of one function, wherever that function is imported. The test that the row names
must then fail; without the bug it passes where it is defined.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

from common.config import NetworkConfig
from common.model import networks
from common.model.policy import Policy
from common.spaces import Spaces
from learner.training import advantages, batch, losses, samples, targets
from learner.training.batch_builder import BatchBuilder
from learner.training.faulty_chunks import FaultyChunkFinder
from learner.training.ppo import PPO
from learner.training.trainer import Trainer
from tests.support.mutation import Mutant, check_noticed
from tests.unit.learner import (
    test_advantages,
    test_batch,
    test_faulty_chunks,
    test_losses,
    test_ppo,
    test_probes,
)


@pytest.mark.parametrize("spaces", [Spaces((84, 84), 4, 3), Spaces((5,), 1, 3)], ids=["images", "vectors"])
def test_values_of_both_streams_have_either_sign(spaces: Spaces) -> None:
    generator = torch.Generator().manual_seed(0)
    stack = torch.randint(0, 256, (1, spaces.stack, *spaces.observation), generator=generator).float()
    with torch.no_grad():
        outputs = [networks.make_policy(spaces, NetworkConfig(), seed)(stack) for seed in range(8)]
    for values in ([x.value_extrinsic for x in outputs], [x.value_intrinsic for x in outputs]):
        assert min(values) < 0 < max(values)


MUTANTS = [
    # The ends of episodes.
    Mutant(
        "ends stop the intrinsic stream",
        targets.compute_targets,
        "torch.full_like(value, ppo.gamma_intrinsic)",
        "ppo.gamma_intrinsic * (~batch.done).float()",
        test_probes.test_intrinsic_values_continue_where_every_step_ends_an_episode,
    ),
    Mutant(
        "extrinsic traces run through ends",
        advantages.extrinsic_ends,
        "gamma * lam * (~done).float()",
        "gamma * lam * torch.ones(done.shape)",
        test_advantages.test_rewards_after_an_end_change_no_extrinsic_advantage_before_it,
    ),
    Mutant(
        "extrinsic values run through ends",
        advantages.extrinsic_ends,
        "gamma * (~terminal).float()",
        "gamma * torch.ones(terminal.shape)",
        partial(test_probes.test_the_value_of_a_single_step_is_its_reward, 1.0),
    ),
    Mutant(
        "no bootstrap at a time limit",
        advantages.extrinsic_ends,
        "terminal = done if time_limit_is_end else terminated",
        "terminal = done",
        test_probes.test_values_bootstrap_at_time_limits,
    ),
    Mutant(
        "bootstrap from the next episode",
        targets.compute_targets,
        ".masked_scatter(batch.truncated, values.final_extrinsic)",
        ".clone()",
        test_ppo.test_a_time_limit_bootstraps_from_the_final_observation,
    ),
    # The ratio of the acting policy and the trained one.
    Mutant(
        "training does not whiten",
        batch.make_batch,
        "(rnd.whiten(x, mean, std, rnd.POLICY_CLIP) for x in (observation, final))",
        "(x.float() for x in (observation, final))",
        test_probes.test_learner_and_actor_compute_the_same_log_probs_of_fresh_actions,
    ),
    Mutant(
        "acting clips like the bonus",
        Policy.distribution_parameters,
        "self._mean, self._std, rnd.POLICY_CLIP",
        "self._mean, self._std",
        test_probes.test_learner_and_actor_compute_the_same_log_probs_of_fresh_actions,
    ),
    Mutant(
        "training whitens with the next version's statistics",
        BatchBuilder.build,
        "self._spaces, acting, self._device",
        "self._spaces, updated.observation_statistics(), self._device",
        test_probes.test_learner_and_actor_compute_the_same_log_probs_of_fresh_actions,
    ),
    Mutant(
        "training is one step ahead",
        samples.make_samples,
        "batch.stack[:-1].flatten(0, 1)",
        "batch.stack[1:].flatten(0, 1)",
        test_probes.test_learner_and_actor_compute_the_same_log_probs_of_fresh_actions,
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
    # Value heads, schedule and shapes.
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
        test_probes.test_annealing_begins_at_the_full_rate_and_ends_above_zero,
    ),
    Mutant(
        "the examination of a failed batch trains on its chunks",
        FaultyChunkFinder.find,
        "self._ppo.load(copy.deepcopy(before))",
        "pass",
        partial(test_faulty_chunks.test_the_examination_changes_nothing, 2),
    ),
    Mutant(
        "learning rate below zero at the end",
        Trainer._progress.fget,  # type: ignore[attr-defined]  # mypy sees the property's value
        "self._status.version / self._config.updates",
        "(self._status.version + 1) / (self._config.updates - 1)",
        test_probes.test_annealing_begins_at_the_full_rate_and_ends_above_zero,
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
        test_probes.test_the_rewarded_action_of_each_state_is_taken,
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.bug for mutant in MUTANTS])
def test_the_bug_is_noticed(mutant: Mutant, request: pytest.FixtureRequest) -> None:
    check_noticed(mutant, request)
