"""The precision that `auto` resolves to, and that of actors without native bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from common.config import Config
from common.model import precision
from common.model.bonus import BonusModel
from common.model.bundle import Bundle
from common.model.networks import make_policy, make_predictor, make_target
from common.model.policy import Policy
from common.model.precision import acting_precision, autocast, resolve_precision
from common.spaces import Spaces

SPACES = Spaces((5,), 1, 3)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("native", "resolved"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_where_the_processor_has_it(
    native: bool, resolved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: native)
    assert resolve_precision("auto", CPU) == resolved
    for explicit in ("float32", "bfloat16"):
        assert resolve_precision(explicit, CPU) == explicit


@pytest.mark.parametrize(
    ("capability", "resolved"),
    [((7, 0), "float32"), ((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")],
    ids=["V100", "T4", "A100", "H100"],
)
def test_auto_is_bfloat16_on_cuda_from_capability_8_on(
    capability: tuple[int, int], resolved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older GPUs emulate bfloat16; the host's processor does not matter."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    for native in (True, False):
        monkeypatch.setattr(precision, "has_bfloat16", lambda native=native: native)
        assert resolve_precision("auto", CUDA) == resolved


def test_an_unresolved_precision_is_refused() -> None:
    """Otherwise two processors of one run could use different precisions without notice."""
    with pytest.raises(ValueError, match="expected a resolved precision, got auto"):
        autocast("auto", "cpu")
    with pytest.raises(ValueError, match="expected a resolved precision, got auto"):
        acting_precision("auto")
    with pytest.raises(ValueError, match="expected a resolved precision, got auto"):
        Policy(SPACES, Config(precision="auto"))


def outputs(config: Config, bundle: Bundle, target: dict[str, torch.Tensor]) -> list[Any]:
    """The results of an actor: parameters of the action distribution, and bonuses."""
    policy, bonus_model = Policy(SPACES, config), BonusModel(SPACES, config, target)
    policy.load(bundle)
    bonus_model.load(bundle)
    states = np.random.default_rng(0).normal(size=(7, 3, 5)).astype(np.float32)
    return [policy.distribution_parameters(states[:, :1]).numpy(), bonus_model.compute_bonus(states)]


def test_an_actor_without_native_bfloat16_acts_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated bfloat16 is slower; other actors of the run use bfloat16."""
    plain, half = Config(precision="float32"), Config(precision="bfloat16")
    modules = {
        "policy": make_policy(SPACES, plain.network, 1),
        "predictor": make_predictor(SPACES, plain.network, 2),
    }
    weights = {f"{name}.{key}": x for name, net in modules.items() for key, x in net.state_dict().items()}
    bundle = Bundle(0, 0, weights | {"mean": torch.zeros(5), "std": torch.ones(5)})
    target = make_target(SPACES, plain.network, 3).state_dict()
    found = {}
    for native in (True, False):
        monkeypatch.setattr(precision, "has_bfloat16", lambda native=native: native)
        found[native] = outputs(half, bundle, target)
    for ours, full, rounded in zip(found[False], outputs(plain, bundle, target), found[True], strict=True):
        np.testing.assert_array_equal(ours, full)
        assert not np.array_equal(rounded, full)
