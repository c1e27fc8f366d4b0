"""Shapes, seeds and memory layouts of the networks."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from common.config import NetworkConfig
from common.model.networks import ImageEmbedding, ImagePolicy, make_policy, make_predictor, make_target
from common.spaces import Spaces

IMAGES, VECTORS = Spaces((84, 84), 4, 7), Spaces((5,), 1, 3)
TORQUES = Spaces((5,), 1, 2, ((-1.0, 1.0), (-2.0, 3.0)))
MAKERS = (make_policy, make_target, make_predictor)
N = 3


def images(*shape: int) -> torch.Tensor:
    """Noise, uint8."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("spaces", [IMAGES, VECTORS], ids=["images", "vectors"])
def test_outputs_have_one_row_per_observation(spaces: Spaces) -> None:
    """Parameters are [N, actions] and both values [N], in float32; target and predictor have equal sizes."""
    config = NetworkConfig()
    stack = images(N, spaces.stack, *spaces.observation)
    output = make_policy(spaces, config, 1)(stack if spaces.is_image else stack.float())
    assert output.distribution_parameters.shape == (N, spaces.actions)
    assert output.value_extrinsic.shape == output.value_intrinsic.shape == (N,)
    assert {x.dtype for x in output} == {torch.float32}
    newest = stack[:, -1].float()
    target, predictor = make_target(spaces, config, 1), make_predictor(spaces, config, 2)
    assert target(newest).shape == predictor(newest).shape == (N, 512 if spaces.is_image else 64)


@pytest.mark.parametrize(("kernel", "flat"), [(3, 64 * 7 * 7), (4, 64 * 6 * 6)])
def test_the_third_kernel_sets_the_flat_size(kernel: Literal[3, 4], flat: int) -> None:
    """3 gives 3136 inputs to the dense layers, 4 gives 2304; the RND networks always have 3."""
    config = NetworkConfig(conv3_kernel=kernel)
    policy, predictor = make_policy(IMAGES, config, 1), make_predictor(IMAGES, config, 1)
    assert isinstance(policy, ImagePolicy)
    assert isinstance(predictor, ImageEmbedding)
    assert policy.conv3.kernel_size == (kernel, kernel)
    assert policy.dense1.in_features == flat
    assert policy(images(N, 4, 84, 84)).distribution_parameters.shape == (N, 7)
    assert predictor.conv3.kernel_size == (3, 3)


@pytest.mark.parametrize("spaces", [IMAGES, VECTORS], ids=["images", "vectors"])
def test_the_same_seed_gives_the_same_weights(spaces: Spaces) -> None:
    """Weights depend on the given seed and on no global state."""
    for make in MAKERS:
        torch.manual_seed(0)
        one = make(spaces, NetworkConfig(), 11).state_dict()
        torch.manual_seed(1)
        same, other = (make(spaces, NetworkConfig(), seed).state_dict() for seed in (11, 13))
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert all(not torch.equal(one[name], other[name]) for name in one if name.endswith("weight"))


def test_only_the_target_is_frozen() -> None:
    """None of its parameters has a gradient; every parameter of the others has one."""
    frozen, *trained = (
        make(IMAGES, NetworkConfig(), 1) for make in (make_target, make_policy, make_predictor)
    )
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for module in trained for parameter in module.parameters())


def test_the_predictor_is_two_dense_layers_deeper() -> None:
    """It can express the function of the target, and others (Burda et al. 2018, published code)."""
    target, predictor = make_target(IMAGES, NetworkConfig(), 1), make_predictor(IMAGES, NetworkConfig(), 1)
    assert [len(list(network.dense)) for network in (target, predictor)] == [1, 3]  # type: ignore[arg-type]


def test_layers_are_orthogonal_without_biases() -> None:
    """The rows of a layer are orthogonal and their length is the gain, which is small for both heads."""
    policy = make_policy(IMAGES, NetworkConfig(), 1)
    assert isinstance(policy, ImagePolicy)
    gains = {
        "conv2": 2**0.5,
        "dense2": 2**0.5,
        "value_branch": 0.1,
        "action_branch": 0.1,
        "logits": 0.01,
        "values": 0.01,
    }
    for name, gain in gains.items():
        weight = policy.get_submodule(name).weight.detach().flatten(1)  # type: ignore[operator]
        gram = weight @ weight.t() if weight.shape[0] <= weight.shape[1] else weight.t() @ weight
        torch.testing.assert_close(gram, gain**2 * torch.eye(len(gram)), atol=1e-5 * gain**2 + 1e-7, rtol=0)
    assert all(not parameter.any() for name, parameter in policy.named_parameters() if name.endswith("bias"))


def test_memory_layout_does_not_change_the_output() -> None:
    """Stacks that are stored with the stack axis last give the output of contiguous ones."""
    policy = make_policy(IMAGES, NetworkConfig(), 1)
    stack = images(N, 84, 84, 4).movedim(-1, 1)
    assert not stack.is_contiguous()
    for strided, plain in zip(policy(stack), policy(stack.contiguous()), strict=True):
        torch.testing.assert_close(strided, plain, atol=1e-5, rtol=0)


def test_the_policy_scales_intensities_to_between_0_and_1() -> None:
    """The first layer equals a plain convolution over image / 255."""
    policy = make_policy(IMAGES, NetworkConfig(), 1)
    assert isinstance(policy, ImagePolicy)
    stack, seen = images(N, 4, 84, 84), []
    policy.conv2.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    policy(stack)
    torch.testing.assert_close(seen[0], policy.conv1(stack.float() / 255).relu(), atol=1e-4, rtol=1e-4)


def test_the_policy_depends_on_the_oldest_image_of_a_stack() -> None:
    """Changing the oldest image of a stack changes the logits."""
    policy = make_policy(IMAGES, NetworkConfig(), 1)
    stack = images(1, 4, 84, 84)
    other = stack.clone()
    other[:, 0] = 255 - other[:, 0]
    assert not torch.equal(policy(stack).distribution_parameters, policy(other).distribution_parameters)


def test_batching_does_not_change_the_output() -> None:
    """A row of a batch has the output that it has alone."""
    for network, rows in (
        (make_policy(IMAGES, NetworkConfig(), 1), images(N, 4, 84, 84)),
        (make_predictor(IMAGES, NetworkConfig(), 1), images(N, 84, 84).float() / 50),
    ):
        together, alone = network(rows), [network(rows[i : i + 1]) for i in range(N)]
        pick = (
            (lambda out: out)
            if isinstance(together, torch.Tensor)
            else (lambda out: out.distribution_parameters)
        )
        torch.testing.assert_close(
            pick(together), torch.cat([pick(out) for out in alone]), atol=1e-4, rtol=1e-4
        )


def test_continuous_actions_have_means_of_the_state_and_one_deviation_for_all() -> None:
    """Parameters are [N, 2 A]: A small means that differ by row, then A log deviations that begin at 0."""
    policy = make_policy(TORQUES, NetworkConfig(), 1)
    output = policy(torch.randn(N, 1, 5, generator=torch.Generator().manual_seed(0)))
    mean, log_std = output.distribution_parameters.chunk(2, 1)
    assert mean.shape == log_std.shape == (N, 2)
    assert not log_std.any()
    assert 0.0 < mean.abs().max() < 0.1
    assert not torch.equal(mean[0], mean[1])
    output.distribution_parameters.sum().backward()
    gradient = policy.get_parameter("log_std").grad
    assert gradient is not None
    assert gradient.tolist() == [N, N]
    assert "log_std" not in make_policy(VECTORS, NetworkConfig(), 1).state_dict()


def heads(policy: torch.nn.Module) -> tuple[torch.nn.Linear, torch.nn.Linear]:
    """The last layer of the actions and the last layer of the values."""
    names = ("logits", "values") if isinstance(policy, ImagePolicy) else ("actor.4", "critic.4")
    first, second = (policy.get_submodule(name) for name in names)
    assert isinstance(first, torch.nn.Linear)
    assert isinstance(second, torch.nn.Linear)
    return first, second


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("spaces", [IMAGES, VECTORS, TORQUES], ids=["images", "vectors", "torques"])
def test_values_and_logits_have_float32_accuracy_at_large_values(
    spaces: Spaces, precision: torch.dtype
) -> None:
    """Near 60, bfloat16 numbers are multiples of 0.25; these layers stay within the bound of float32."""
    policy = make_policy(spaces, NetworkConfig(), 1)
    last = heads(policy)
    features: dict[torch.nn.Module, torch.Tensor] = {}
    for head in last:
        head.register_forward_pre_hook(lambda module, inputs: features.update({module: inputs[0]}))
    stack = images(64, spaces.stack, *spaces.observation)
    with torch.no_grad(), torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        last[0].weight.mul_(100.0)
        last[0].bias.copy_(torch.linspace(-20.0, 20.0, spaces.actions))
        last[1].bias.fill_(60.0)
        output = policy(stack if spaces.is_image else stack.float() / 50)
    found = output.distribution_parameters[:, : spaces.actions], torch.stack(output[1:], 1)
    assert found[1].abs().min() > 50.0
    for head, result in zip(last, found, strict=True):
        inputs = features[head]
        exact = inputs.double() @ head.weight.double().t() + head.bias.double()
        # A sum of n products has at most n roundings, each of 2^-24 of the sum of magnitudes.
        magnitudes = inputs.double().abs() @ head.weight.double().abs().t() + head.bias.double().abs()
        bound = (inputs.shape[1] + 1) * 2.0**-24 * magnitudes
        assert ((result.double() - exact).abs() <= bound).all()
        if head is last[0] and not spaces.is_continuous:
            log_probs = torch.log_softmax(result, 1), torch.log_softmax(exact, 1)
            # A log-probability moves by at most twice the largest error of a logit.
            assert (log_probs[0] - log_probs[1]).abs().max() <= 2 * bound.max() + 2.0**-20 * exact.abs().max()
