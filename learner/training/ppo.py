"""PPO on one batch: values and advantages of both streams, then passes over minibatches.

Order within an update (Burda et al. 2018, code): advantages with the networks that began it; the
predictor learns on inputs whitened with the statistics that already include this batch.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.config import Config
from common.model import bonus, rnd
from common.model.distributions import distribution
from common.model.networks import make_policy, make_predictor, make_target
from common.model.precision import autocast
from common.rng import network_seed
from common.spaces import Spaces
from learner.training.batch import Batch, observations
from learner.training.losses import clipped_policy_loss, value_loss
from learner.training.targets import Targets, Values, explained, staleness, targets

_SLICE = 512  # rows per forward pass without gradients
_POLICY, _TARGET, _PREDICTOR, _DRAWS = range(4)  # roles of seeds
FIGURES = (
    "policy_loss",
    "value_loss_extrinsic",
    "value_loss_intrinsic",
    "entropy",
    "predictor_loss",
    "clip_fraction",
    "approx_kl",
    "policy_grad_norm",
    "predictor_grad_norm",
)


@dataclass(frozen=True, slots=True)
class Report:
    """What one update did: means over its minibatches, and facts about the batch."""

    figures: dict[str, float]
    learning_rate: float


@dataclass(frozen=True, slots=True, eq=False)
class _Samples:
    """The batch flattened to N = T x E rows, with everything the losses need."""

    stack: Tensor  # [N, ..., S]
    action: Tensor
    old_log_prob: Tensor
    aims: Targets
    next_observation: Tensor  # [N, ...]
    feature: Tensor  # [N, F], zero where no pass needs it
    kept: Tensor  # bool [epochs, N], on the host


class PPO:
    """Owns networks, optimiser and the learner's random draws. Used by the trainer alone."""

    def __init__(self, config: Config, spaces: Spaces, device: torch.device) -> None:
        self._config, self._device = config, device
        self._distribution = distribution(spaces)
        network, seed = config.network, config.seed
        self.policy = make_policy(spaces, network, network_seed(seed, _POLICY)).to(device)
        self.target = make_target(spaces, network, network_seed(seed, _TARGET)).to(device)
        self.predictor = make_predictor(spaces, network, network_seed(seed, _PREDICTOR)).to(device)
        groups = [self._policy_parameters()]
        if config.rnd.enabled:
            groups.append(self._predictor_parameters())
        self.optimiser = torch.optim.Adam(
            [{"params": group} for group in groups],
            config.ppo.learning_rate,
            eps=config.ppo.adam_eps,
            fused=True,
        )
        self._learning: list[nn.Module | torch.optim.Adam] = [self.policy, self.predictor, self.optimiser]
        self.generator = torch.Generator().manual_seed(network_seed(seed, _DRAWS))

    def _policy_parameters(self) -> list[nn.Parameter]:
        return list(self.policy.parameters())

    def _predictor_parameters(self) -> list[nn.Parameter]:
        return list(self.predictor.parameters())

    def update(self, batch: Batch, statistics: tuple[Tensor, Tensor], progress: float) -> Report | None:
        """Train on one batch.

        Args:
            batch: see there.
            statistics: observation mean and std that include this batch.
            progress: share of the run's updates already done, in [0, 1).

        Returns:
            What it did; None if a figure was not finite: then networks and optimiser are as before.
        """
        ppo = self._config.ppo
        scale = 1.0 - progress if ppo.anneal else 1.0
        learning_rate = ppo.learning_rate * scale
        rates = (learning_rate, (self._config.rnd.learning_rate or ppo.learning_rate) * scale)
        for group, rate in zip(self.optimiser.param_groups, rates, strict=False):
            group["lr"] = rate
        before = copy.deepcopy([x.state_dict() for x in self._learning])
        samples, facts = self._prepare(batch, statistics)
        sums = torch.zeros(len(FIGURES), device=self._device)
        minibatches = self._minibatches(samples.kept, *batch.reward.shape)
        for rows, chosen in minibatches:
            sums += self._step(samples, rows, chosen, statistics, ppo.clip * scale)
        # One copy to the host for all figures: it waits for the device.
        found = torch.cat([sums / len(minibatches), torch.stack(list(facts.values()))]).tolist()
        figures = dict(zip([*FIGURES, *facts], found, strict=True))
        if not all(map(math.isfinite, figures.values())):
            for module, state in zip(self._learning, before, strict=True):
                module.load_state_dict(state)
            return None
        return Report(figures, learning_rate)

    @torch.no_grad()
    def _prepare(self, batch: Batch, statistics: tuple[Tensor, Tensor]) -> tuple[_Samples, dict[str, Tensor]]:
        """Everything the passes need that does not change within them, and facts of the batch."""
        values = self._values(batch)
        aims = targets(batch, values, self._config)
        kept, feature = self._features(batch, statistics)
        samples = _Samples(
            stack=batch.stack[:-1].flatten(0, 1),
            action=batch.action.flatten(0, 1),
            old_log_prob=values.log_prob.flatten(),
            aims=Targets(*(getattr(aims, field.name).flatten() for field in dataclasses.fields(aims))),
            next_observation=batch.next_observation.flatten(0, 1),
            feature=feature,
            kept=kept,
        )
        facts = {
            "intrinsic_reward_mean": batch.intrinsic.mean(),
            "intrinsic_reward_std": batch.intrinsic.std(),
            "advantage_std": aims.advantage.std(),
            "lag_mean": batch.lag.float().mean(),
        }
        return samples, facts | explained(values, aims) | staleness(batch, values, aims)

    def _values(self, batch: Batch) -> Values:
        steps, lanes = batch.reward.shape
        parameters, extrinsic, intrinsic = self._evaluate(batch.stack.flatten(0, 1))
        acted = parameters[: steps * lanes]
        return Values(
            self._distribution.log_prob(acted, batch.action.flatten(0, 1)).view(steps, lanes),
            extrinsic.view(steps + 1, lanes),
            intrinsic.view(steps + 1, lanes),
            self._evaluate(batch.final_stack)[1] if len(batch.final_stack) else extrinsic[:0],
        )

    def _evaluate(self, stack: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with autocast(self._config.precision, self._device.type):
            parts = [self.policy(observations(stack[i : i + _SLICE])) for i in range(0, len(stack), _SLICE)]
        parameters, extrinsic, intrinsic = (torch.cat(part) for part in zip(*parts, strict=True))
        return parameters, extrinsic, intrinsic

    @torch.no_grad()
    def compute_bonus(self, observation: Tensor, statistics: tuple[Tensor, Tensor]) -> Tensor:
        """The bonus by the present predictor, [T, B, ...] -> float32 [T, B]; see `bonus.compute_bonus`."""
        return bonus.compute_bonus(
            self.predictor, self.target, observation, statistics, self._config.precision
        )

    def _features(self, batch: Batch, statistics: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Draw which samples the predictor sees in each pass; the target's features of those."""
        rows = batch.reward.numel()
        epochs, keep = self._config.ppo.epochs, self._config.predictor_share
        if not self._config.rnd.enabled:
            return torch.zeros(epochs, rows, dtype=torch.bool), torch.empty(0)
        kept = torch.rand(epochs, rows, generator=self.generator) < keep
        needed = kept.any(0).nonzero().squeeze(1).to(self._device)
        flat = batch.next_observation.flatten(0, 1)
        with autocast(self._config.precision, self._device.type):
            parts = [
                self.target(rnd.whiten(flat[some], *statistics)).float()
                for some in torch.split(needed, _SLICE)
            ]
        found = torch.cat(parts)
        feature = torch.zeros(rows, found.shape[1], device=self._device)
        feature[needed] = found
        return kept, feature

    def _minibatches(self, kept: Tensor, steps: int, lanes: int) -> list[tuple[Tensor, Tensor]]:
        """Rows of each minibatch, and those that the predictor sees: dropped rows cost nothing.

        Shuffled steps, or blocks of whole lanes in order. Drawn on the host and sent at once, because every
        copy from the host waits for the device.
        """
        ppo, size = self._config.ppo, steps * lanes // self._config.ppo.minibatches
        lane_by_lane = torch.arange(steps * lanes).view(steps, lanes).t().reshape(-1)
        orders = [
            torch.randperm(steps * lanes, generator=self.generator) if ppo.shuffle else lane_by_lane
            for _ in range(ppo.epochs)
        ]
        chosen = [
            rows[keep[rows]]
            for order, keep in zip(orders, kept, strict=True)
            for rows in torch.split(order, size)
        ]
        every = torch.split(torch.cat(orders).to(self._device), size)
        seen = torch.split(torch.cat(chosen).to(self._device), [len(rows) for rows in chosen])
        return list(zip(every, seen, strict=True))

    def _step(
        self, samples: _Samples, rows: Tensor, chosen: Tensor, statistics: tuple[Tensor, Tensor], clip: float
    ) -> Tensor:
        """One optimiser step; returns `FIGURES` as a tensor, so that nothing waits for the device."""
        ppo, config = self._config.ppo, self._config
        with autocast(config.precision, self._device.type):
            output = self.policy(observations(samples.stack[rows]))
            predictor_loss = self._predictor_loss(samples, chosen, statistics)
        log_prob = self._distribution.log_prob(output.parameters, samples.action[rows])
        aims, old = samples.aims, samples.old_log_prob[rows]
        advantage = aims.advantage[rows]
        if ppo.normalise_advantages:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        policy_loss = (aims.weight[rows] * clipped_policy_loss(log_prob, old, advantage, clip)).mean()
        loss_e = value_loss(output.value_extrinsic, aims.extrinsic[rows]).mean()
        loss_i = value_loss(output.value_intrinsic, aims.intrinsic[rows]).mean()
        entropy = self._distribution.entropy(output.parameters).mean()
        loss = policy_loss + ppo.value_coef * loss_e - ppo.entropy_coef * entropy
        if config.rnd.enabled:
            loss = loss + ppo.value_coef * loss_i + predictor_loss
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        bound = ppo.max_grad_norm or float("inf")
        norms = [nn.utils.clip_grad_norm_(self._policy_parameters(), bound)]
        norms.append(
            nn.utils.clip_grad_norm_(self._predictor_parameters(), bound)
            if config.rnd.enabled
            else norms[0] * 0
        )
        self.optimiser.step()
        with torch.no_grad():
            log_ratio = log_prob - old
            outside = (log_ratio.exp() - 1).abs() > clip
            kl = (log_ratio.exp() - 1 - log_ratio).mean()
            losses = (policy_loss, loss_e, loss_i, entropy, predictor_loss, outside.float().mean(), kl)
            return torch.stack([x.detach().float() for x in (*losses, *norms)])

    def _predictor_loss(self, samples: _Samples, chosen: Tensor, statistics: tuple[Tensor, Tensor]) -> Tensor:
        """Mean prediction error of the kept samples; 0 when none is kept."""
        if not self._config.rnd.enabled or not len(chosen):
            return torch.zeros((), device=self._device)
        prediction = self.predictor(rnd.whiten(samples.next_observation[chosen], *statistics))
        return rnd.prediction_error(prediction, samples.feature[chosen]).mean()

    def tensors(self) -> dict[str, Tensor]:
        """Policy and predictor, by bundle name, on the host."""
        tensors = _on_host("policy", self.policy.state_dict())
        if self._config.rnd.enabled:
            tensors |= _on_host("predictor", self.predictor.state_dict())
        return tensors

    def state(self) -> dict[str, Tensor]:
        """Everything that `load` restores, by checkpoint name, on the host."""
        state = _on_host("model", self.tensors()) | _on_host("target", self.target.state_dict())
        for number, moments in self.optimiser.state_dict()["state"].items():
            state |= _on_host(f"optimiser.{number}", moments)
        return state | {"generator": self.generator.get_state()}

    def load(
        self,
        model: dict[str, Tensor],
        target: dict[str, Tensor],
        optimiser: dict[str, Tensor],
        generator: Tensor,
    ) -> None:
        """Restore the four parts of `state`."""
        for prefix, module in (("policy", self.policy), ("predictor", self.predictor)):
            head = prefix + "."
            state = {name[len(head) :]: value for name, value in model.items() if name.startswith(head)}
            if state:
                module.load_state_dict(state)
        self.target.load_state_dict(target)
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in optimiser.items():
            number, _, key = name.partition(".")
            parameter = parameters[int(number)]
            # The fused optimiser walks raw memory: moments must lie in the parameter's layout.
            laid = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
            moments.setdefault(int(number), {})[key] = laid.detach()
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.generator.set_state(generator)


def _on_host(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in host memory, as `prefix.NAME`; those that are there already are not copied."""
    return {f"{prefix}.{name}": value.detach().cpu() for name, value in tensors.items()}
