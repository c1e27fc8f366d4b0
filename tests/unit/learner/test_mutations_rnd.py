"""Known bugs of RND, each put into the product at one place: the named test must fail.

A row rewrites one expression of one function, wherever that function is imported. The test that the row names
must then fail; without the bug it passes where it is defined.
"""

from __future__ import annotations

from functools import partial

import pytest

from actor.service import Actor
from common.model import rnd
from common.model.bonus import BonusModel
from learner.training import batch, running_stats
from learner.training.batch_builder import BatchBuilder
from learner.training.normaliser import Normaliser
from learner.training.ppo import PPO
from tests.support.mutation import Mutant, check_noticed
from tests.unit.common import test_bonus, test_rnd
from tests.unit.learner import test_normaliser, test_oracles, test_probes, test_running_stats


def novelty_without_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test, which may not reuse what was measured without the bug."""
    monkeypatch.setattr(test_bonus, "bonuses", test_bonus.bonuses.__wrapped__)
    test_bonus.test_whitening_makes_novelty_independent_of_scale()


FRESH_BONUS, STALE_BONUS = (
    partial(
        test_probes.test_the_bonus_of_a_step_is_the_error_of_the_newest_predictor_on_the_next_observation, lag
    )
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
        Normaliser.scale_bonus,
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
        "scale_bonus(joined.bonus, [decoded.slot for decoded in chunks])",
        "scale_reward(joined.bonus, joined.done, [(decoded.slot, 0, False) for decoded in chunks])",
        test_probes.test_no_end_interrupts_the_discounted_bonuses_of_a_lane,
    ),
    Mutant(
        "filter reset at chunks",
        Normaliser.scale_bonus,
        "self._filters.get(slot, np.zeros(self._lanes))",
        "np.zeros(self._lanes)",
        test_normaliser.test_the_filter_continues_over_chunks,
    ),
    # The observation whose bonus is computed.
    Mutant(
        "actor computes the bonus of the current observation",
        Actor._play,
        "chunk.observation[state.spaces.stack :]",
        "chunk.observation[state.spaces.stack - 1 : -1]",
        FRESH_BONUS,
    ),
    Mutant(
        "learner computes the bonus of the current observation",
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
        test_probes.test_the_predictor_learns_next_observations_whitened_with_statistics_that_include_the_batch,
    ),
    # The scale of rewards.
    Mutant(
        "bonus scaled by lane",
        Normaliser.scale_bonus,
        "bonus / self.intrinsic_return.std",
        "bonus / filtered.std(0)",
        test_normaliser.test_all_lanes_share_one_divisor,
    ),
    Mutant(
        "bonus scaled by actor",
        Normaliser.scale_bonus,
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
        Normaliser.scale_bonus,
        "bonus / self.intrinsic_return.std",
        "(bonus - bonus.mean()) / self.intrinsic_return.std",
        test_normaliser.test_the_first_batch_is_divided_by_a_std_that_includes_it,
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
        test_probes.test_the_bonus_falls_on_visited_states,
    ),
    Mutant(
        "target moves with every step",
        PPO._step,
        "self.optimiser.step()",
        "self.optimiser.step(); torch._foreach_mul_(list(self.target.parameters()), 0.9999)",
        test_oracles.test_a_hundred_updates_do_not_change_the_target,
    ),
    Mutant(
        "no whitening",
        rnd.whiten,
        "(observation.float() - mean) / std",
        "observation.float()",
        novelty_without_cache,
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
        "rnd.whiten(samples.next_observation[rows], *statistics)",
        "samples.next_observation[rows].float()",
        test_probes.test_the_predictor_learns_next_observations_whitened_with_statistics_that_include_the_batch,
    ),
    Mutant(
        "target sees no whitening",
        PPO._target_features,
        "rnd.whiten(flat[some], *statistics)",
        "flat[some].float()",
        test_probes.test_the_predictor_learns_next_observations_whitened_with_statistics_that_include_the_batch,
    ),
    # Outdated bundles.
    Mutant(
        "actor keeps its first statistics for the bonus",
        BonusModel.load,
        "self._mean, self._std = bundle.statistics(tuple(self._mean.shape))",
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
        "learner computes the bonus with the next version's statistics",
        BatchBuilder.build,
        "shift = self._recompute_stale_bonuses(joined, lag, acting)",
        "normaliser.observe(joined.observation); "
        "shift = self._recompute_stale_bonuses(joined, lag, normaliser.observation_statistics())",
        STALE_BONUS,
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.bug for mutant in MUTANTS])
def test_the_bug_is_noticed(mutant: Mutant, request: pytest.FixtureRequest) -> None:
    check_noticed(mutant, request)
