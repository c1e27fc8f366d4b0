"""The state of an optimiser as named tensors: "0.exp_avg" is a moment of the first parameter."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the moments and step counts of every parameter, as PARAMETER_NUMBER.NAME."""
    return {
        f"{number}.{name}": value
        for number, moments in optimiser.state_dict()["state"].items()
        for name, value in moments.items()
    }


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `optimiser_tensors` returned; learning rates stay as they are."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        parameter = parameters[int(number)]
        # The fused optimiser reads raw memory, so the moments need the memory layout of the parameter.
        laid_out = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
        state.setdefault(int(number), {})[name] = laid_out.detach()
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
