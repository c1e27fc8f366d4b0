"""The networks: the policy with two value heads, the RND target and the RND predictor.

The networks for images follow Burda et al. 2018 (published code, cnn_policy_param_matched.py): orthogonal
weights, zero biases. The policy for vectors is two small tanh networks (Schulman et al. 2017, section 6.1).
"""

from __future__ import annotations

import contextlib
import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import NetworkConfig
from common.spaces import Spaces

_GAIN = math.sqrt(2)
_FEATURES = 512  # width of the RND embedding on images
_VECTOR_FEATURES = 64  # its width on vectors
_KINK_RANGE = 3.0  # standard deviations of whitened inputs


class PolicyOutput(NamedTuple):
    """The outputs of a policy for N observations, float32."""

    distribution_parameters: Tensor  # [N, P]: logits, or means and log standard deviations
    value_extrinsic: Tensor  # [N]
    value_intrinsic: Tensor  # [N]


def compute_dtype(device: torch.device) -> torch.dtype:
    """The dtype of matrix products on `device`: that of an enclosing autocast, else float32."""
    kind = device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int, generator: torch.Generator | None
) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, stride)
    if generator is not None:
        nn.init.orthogonal_(layer.weight, _GAIN, generator)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # this Conv2d has a bias
    return layer


def _linear(inputs: int, outputs: int, gain: float, generator: torch.Generator | None) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    if generator is not None:
        nn.init.orthogonal_(layer.weight, gain, generator)
        nn.init.zeros_(layer.bias)
    return layer


def _head(layer: nn.Module, features: Tensor) -> Tensor:
    """Apply an output layer in float32, also inside an autocast.

    bfloat16 has 8 significant bits: values near 60 would be multiples of 0.25.
    """
    kind = features.device.type
    # The context is entered only inside an autocast: it takes as long as a layer of a small network.
    cast = torch.is_autocast_enabled(kind)
    with torch.autocast(kind, enabled=False) if cast else contextlib.nullcontext():
        output = layer(features.float())
    assert isinstance(output, Tensor)
    return output


def _tanh_output(net: nn.Sequential, x: Tensor) -> Tensor:
    """The output of a `_tanh_net`; the last layer runs in float32."""
    *hidden, last = net
    for layer in hidden:
        x = layer(x)
    return _head(last, x)


class ImagePolicy(nn.Module):
    """The policy for images: convolutions, two dense layers, a residual branch each for values and actions.

    Source: Burda et al. 2018, code; a third kernel of 3 gives the trunk of Mnih et al. 2015.
    """

    def __init__(self, spaces: Spaces, config: NetworkConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        third = config.conv3_kernel
        side = 10 - third
        self.conv1 = _conv(spaces.stack, 32, 8, 4, generator)
        self.conv2 = _conv(32, 64, 4, 2, generator)
        self.conv3 = _conv(64, 64, third, 1, generator)
        self.dense1 = _linear(64 * side * side, 256, _GAIN, generator)
        self.dense2 = _linear(256, 448, _GAIN, generator)
        self.value_branch = _linear(448, 448, 0.1, generator)
        self.action_branch = _linear(448, 448, 0.1, generator)
        self.logits = _linear(448, spaces.actions, 0.01, generator)
        self.values = _linear(448, 2, 0.01, generator)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, stack: Tensor) -> PolicyOutput:
        """uint8 [N, S, 84, 84] -> `PolicyOutput`."""
        x = stack.to(compute_dtype(stack.device), memory_format=torch.channels_last)
        # The scale 1/255 is applied to the small weights rather than to the large images.
        x = F.relu(F.conv2d(x, self.conv1.weight * (1 / 255), self.conv1.bias, stride=4))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        x = F.relu(self.dense1(x.flatten(1)))
        x = F.relu(self.dense2(x))
        values = _head(self.values, x.float() + F.relu(self.value_branch(x)))
        logits = _head(self.logits, x.float() + F.relu(self.action_branch(x)))
        return PolicyOutput(logits, values[:, 0], values[:, 1])


class VectorPolicy(nn.Module):
    """The policy for whitened vectors: one tanh network for actions and one for both values.

    The mean of continuous actions depends on the state; their standard deviation does not.
    """

    def __init__(self, spaces: Spaces, config: NetworkConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        inputs, hidden = spaces.observation[0], config.hidden
        self.actor = _tanh_net(inputs, hidden, spaces.actions, 0.01, generator)
        self.critic = _tanh_net(inputs, hidden, 2, 1.0, generator)
        self.log_std = nn.Parameter(torch.zeros(spaces.actions)) if spaces.is_continuous else None

    def forward(self, stack: Tensor) -> PolicyOutput:
        """float32 [N, 1, D] -> `PolicyOutput`."""
        x = stack[:, -1]
        values = _tanh_output(self.critic, x)
        parameters = _tanh_output(self.actor, x)
        if self.log_std is not None:
            parameters = torch.cat([parameters, self.log_std.expand_as(parameters)], 1)
        return PolicyOutput(parameters, values[:, 0], values[:, 1])


def _tanh_net(
    inputs: int, hidden: int, outputs: int, gain: float, generator: torch.Generator | None
) -> nn.Sequential:
    return nn.Sequential(
        _linear(inputs, hidden, _GAIN, generator),
        nn.Tanh(),
        _linear(hidden, hidden, _GAIN, generator),
        nn.Tanh(),
        _linear(hidden, outputs, gain, generator),
    )


class ImageEmbedding(nn.Module):
    """The RND network for whitened images: convolutions, then `dense` dense layers; no output activation.

    Source: Burda et al. 2018, code: the target has one dense layer, the predictor three.
    """

    def __init__(self, dense: int, config: NetworkConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        self.slope = config.leaky_slope
        self.conv1 = _conv(1, 32, 8, 4, generator)
        self.conv2 = _conv(32, 64, 4, 2, generator)
        self.conv3 = _conv(64, 64, 3, 1, generator)
        widths = [64 * 7 * 7] + [_FEATURES] * dense
        self.dense = nn.ModuleList(_linear(a, b, _GAIN, generator) for a, b in pairwise(widths))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> Tensor:
        """Whitened float32 [N, 84, 84] -> features [N, 512]."""
        x = image.unsqueeze(1).to(compute_dtype(image.device), memory_format=torch.channels_last)
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.leaky_relu(conv(x), self.slope)
        x = self.dense[0](x.flatten(1))
        for layer in self.dense[1:]:
            x = layer(F.relu(x))
        assert isinstance(x, Tensor)
        return x


def _vector_embedding(inputs: int, dense: int, generator: torch.Generator | None) -> nn.Sequential:
    width = 2 * _VECTOR_FEATURES
    first = _linear(inputs, width, _GAIN, generator)
    if generator is not None:
        # The kink of each unit lies at a random point of the whitened range. Without biases the network would
        # be linear along every ray from the origin, and a predictor that is exact near the origin would be
        # exact far from it as well.
        points = (2 * torch.rand(width, inputs, generator=generator) - 1) * _KINK_RANGE
        first.bias = nn.Parameter(-(first.weight.detach() * points).sum(1))
    layers: list[nn.Module] = [first]
    for _ in range(dense - 1):
        layers += [nn.LeakyReLU(0.2), _linear(width, width, _GAIN, generator)]
    layers += [nn.LeakyReLU(0.2), _linear(width, _VECTOR_FEATURES, _GAIN, generator)]
    return nn.Sequential(*layers)


def make_policy(spaces: Spaces, config: NetworkConfig, seed: int | None = None) -> ImagePolicy | VectorPolicy:
    """Make a policy network; `seed` determines its weights; without a seed they must be loaded."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    kind = ImagePolicy if spaces.is_image else VectorPolicy
    return kind(spaces, config, generator)


def make_target(spaces: Spaces, config: NetworkConfig, seed: int | None = None) -> nn.Module:
    """Make the target: the fixed random network of RND, which is never trained."""
    network = _embedding(spaces, config, 1, seed)
    return network.requires_grad_(False)


def make_predictor(spaces: Spaces, config: NetworkConfig, seed: int | None = None) -> nn.Module:
    """Make the predictor: the network that learns to predict the target; it has two more dense layers."""
    return _embedding(spaces, config, 3, seed)


def _embedding(spaces: Spaces, config: NetworkConfig, dense: int, seed: int | None) -> nn.Module:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    if spaces.is_image:
        return ImageEmbedding(dense, config, generator)
    return _vector_embedding(spaces.observation[0], dense, generator)
