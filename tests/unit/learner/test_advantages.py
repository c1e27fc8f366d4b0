"""An advantage depends on later rewards up to the end of its stream."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learner.training.advantages import extrinsic_ends, importance, vtrace

T, B = 5, 3
GAMMA, LAMBDA = 0.99, 0.95


def noise(seed: int, *shape: int) -> Tensor:
    """Normal noise, float32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gae(reward: Tensor, value: Tensor, next_value: Tensor, discount: Tensor, trace: Tensor) -> Tensor:
    """The advantages of actions of the present policy."""
    return vtrace(reward, value, next_value, discount, trace, torch.ones(reward.shape))[0]


def flags(*places: tuple[int, int]) -> Tensor:
    """bool [T, B], True at these places."""
    out = torch.zeros(T, B, dtype=torch.bool)
    for place in places:
        out[place] = True
    return out


def test_gae_is_the_sum_over_all_later_steps() -> None:
    """The recursion equals the explicit double sum of discounted errors."""
    reward, value, next_value = noise(0, 3, T, B)
    discount, trace = torch.rand(2, T, B, generator=torch.Generator().manual_seed(1))
    delta = reward + discount * next_value - value
    slow = torch.zeros(T, B)
    for t in range(T):
        weight = torch.ones(B)
        for k in range(t, T):
            slow[t] += weight * delta[k]
            weight = weight * trace[k]
    torch.testing.assert_close(gae(reward, value, next_value, discount, trace), slow)


def test_with_lambda_1_it_is_the_return_minus_the_value() -> None:
    """Every advantage is the discounted sum of later rewards and the bootstrap, minus V."""
    reward, values = noise(0, T, B), noise(1, T + 1, B)
    full = torch.full((T, B), GAMMA)
    returns, expected = values[T], list[Tensor]()
    for t in reversed(range(T)):
        returns = reward[t] + GAMMA * returns
        expected.insert(0, returns - values[t])
    torch.testing.assert_close(gae(reward, values[:-1], values[1:], full, full), torch.stack(expected))


def test_rewards_after_an_end_change_no_extrinsic_advantage_before_it() -> None:
    """Terminations and time limits both separate episodes."""
    reward, value, next_value = noise(0, 3, T, B)
    discount, trace = extrinsic_ends(flags((2, 0)), flags((2, 1)), GAMMA, LAMBDA, False)
    before = gae(reward, value, next_value, discount, trace)
    reward[3:] += 10.0
    after = gae(reward, value, next_value, discount, trace)
    assert torch.equal(before[:3, :2], after[:3, :2])
    assert not torch.isclose(before[:3, 2], after[:3, 2]).any()
    assert not torch.isclose(before[3:], after[3:]).any()


def test_the_intrinsic_stream_crosses_every_end() -> None:
    """Its discount and trace are constant, so later reward reaches every earlier step."""
    reward, value, next_value = noise(0, 3, T, B)
    full = torch.full((T, B), GAMMA)
    before = gae(reward, value, next_value, full, full * LAMBDA)
    reward[T - 1] += 10.0
    assert (gae(reward, value, next_value, full, full * LAMBDA) > before + 5).all()


def test_a_termination_has_no_next_value_and_a_time_limit_has_one() -> None:
    """The value after a time limit is part of the advantage, unless a time limit counts as an end."""
    reward, value, next_value = noise(0, 3, T, B)
    for is_end in (False, True):
        ends = extrinsic_ends(flags((1, 0)), flags((1, 1)), GAMMA, LAMBDA, is_end)
        advantage = gae(reward, value, next_value, *ends)
        alone = reward[1] - value[1]
        torch.testing.assert_close(advantage[1, 0], alone[0])
        bootstrapped = alone[1] + (0 if is_end else GAMMA) * next_value[1, 1]
        torch.testing.assert_close(advantage[1, 1], bootstrapped)


def test_ends_change_only_their_own_step() -> None:
    """Every other step has discount gamma and trace gamma lambda."""
    discount, trace = extrinsic_ends(flags((0, 1)), flags((4, 2)), GAMMA, LAMBDA, False)
    assert (discount == GAMMA).sum() == T * B - 1
    assert torch.isclose(trace, torch.tensor(GAMMA * LAMBDA)).sum() == T * B - 2
    assert (discount[0, 1], trace[0, 1], trace[4, 2]) == (0, 0, 0)


def test_lanes_do_not_mix() -> None:
    """Each lane's advantages are those it would have alone."""
    arrays = noise(0, 5, T, B)
    alone = [gae(*(x[:, b : b + 1] for x in arrays)) for b in range(B)]
    torch.testing.assert_close(gae(*arrays), torch.cat(alone, 1))


def test_arrays_of_different_shapes_are_refused() -> None:
    """A transposed array or one with T + 1 rows raises instead of broadcasting."""
    good = torch.zeros(T, B)
    for bad in (torch.zeros(B, T), torch.zeros(T + 1, B), torch.zeros(B)):
        for place in range(6):
            arrays = [good] * 6
            arrays[place] = bad
            with pytest.raises(ValueError, match="one"):
                vtrace(*arrays)


def test_inputs_are_not_changed() -> None:
    """The recursion runs in a tensor of its own."""
    arrays = noise(0, 6, T, B) * 3
    copies = arrays.clone()
    vtrace(*arrays)
    assert torch.equal(arrays, copies)


def test_an_action_of_lag_0_has_importance_exactly_1() -> None:
    """It is 1 for any log-probabilities of actor and learner."""
    log_prob, behaviour = noise(0, 2, T, B)
    rho = importance(log_prob, behaviour, torch.tensor([0, 1, 3]))
    assert torch.equal(rho[:, 0], torch.ones(T))
    torch.testing.assert_close(rho[:, 1:], (log_prob.exp() / behaviour.exp())[:, 1:])


def test_importance_is_finite_for_extreme_log_probabilities() -> None:
    log_prob = torch.tensor([[-1e30, 1e30, -float("inf")]])
    rho = importance(log_prob, torch.zeros(1, 3), torch.ones(3, dtype=torch.int64))
    assert torch.isfinite(rho).all()
    assert (rho[0, 0], rho[0, 2]) == (rho.min(), rho.min())
    assert 0.0 < rho[0, 0] < 1e-8 < 1e8 < rho[0, 1]


def test_an_action_of_importance_0_changes_no_target_and_stops_the_trace() -> None:
    """With rho near 0 the target is the value itself, and nothing later reaches an earlier step."""
    reward, value, next_value = noise(0, 3, T, B)
    full, rho = torch.full((T, B), GAMMA), torch.ones(T, B)
    rho[2] = 0.0
    advantage, target = vtrace(reward, value, next_value, full, full, rho)
    assert torch.equal(target[2], value[2])
    later = reward.clone()
    later[3:] += 10.0
    moved, _ = vtrace(later, value, next_value, full, full, rho)
    assert torch.equal(moved[:2], advantage[:2])
    assert not torch.isclose(
        moved[2:], advantage[2:]
    ).any()  # an advantage does not include the rho of its own step
