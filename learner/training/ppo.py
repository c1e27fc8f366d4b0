"""PPO with RND on one batch: values and advantages of both reward streams, then epochs of minibatches.

Order within an update (Burda et al. 2018, code): the advantages use the networks from before the update;
the predictor learns from inputs whitened with statistics that already include the batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.config import Config
from common.model import bonus, rnd
from common.model.bundle import under
from common.model.distributions import distribution
from common.model.networks import make_policy, make_predictor, make_target
from common.model.precision import autocast
from common.rng import network_seed
from common.spaces import Spaces
from learner.training.batch import Batch, observations
from learner.training.losses import clipped_policy_loss, value_loss
from learner.training.minibatches import draw_minibatches, draw_predictor_mask
from learner.training.optimiser_state import load_optimiser, optimiser_tensors
from learner.training.samples import Samples, make_samples
from learner.training.targets import Values, compute_targets, explained_variance, staleness

_SLICE = 512  # rows per forward pass without gradients
_POLICY, _TARGET, _PREDICTOR, _SAMPLING = range(4)  # purposes of the seeds
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
class UpdateReport:
    """Figures of one update: means over its minibatches, and statistics of the batch."""

    figures: dict[str, float]
    learning_rate: float


class PPO:
    """Owns networks, optimiser and the random generator of an update. Only the trainer's thread uses it."""

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
        self._trained: list[nn.Module | torch.optim.Adam] = [self.policy, self.predictor, self.optimiser]
        self.generator = torch.Generator().manual_seed(network_seed(seed, _SAMPLING))

    def _policy_parameters(self) -> list[nn.Parameter]:
        return list(self.policy.parameters())

    def _predictor_parameters(self) -> list[nn.Parameter]:
        return list(self.predictor.parameters())

    def update(self, batch: Batch, statistics: tuple[Tensor, Tensor], progress: float) -> UpdateReport | None:
        """Train on one batch.

        Args:
            batch: the batch, on the device.
            statistics: mean and std of the observations, including this batch.
            progress: share of the run's updates that are done, in [0, 1).

        Returns:
            The figures; None if one is not finite, and then networks and optimiser are as before.
        """
        ppo = self._config.ppo
        scale = 1.0 - progress if ppo.anneal else 1.0
        learning_rate = ppo.learning_rate * scale
        rates = (learning_rate, (self._config.rnd.learning_rate or ppo.learning_rate) * scale)
        for group, rate in zip(self.optimiser.param_groups, rates, strict=False):
            group["lr"] = rate
        before = copy.deepcopy([x.state_dict() for x in self._trained])
        samples, batch_figures = self._prepare(batch, statistics)
        sums = torch.zeros(len(FIGURES), device=self._device)
        steps, lanes = batch.reward.shape
        minibatches = draw_minibatches(
            samples.predictor_mask, steps, lanes, ppo, self.generator, self._device
        )
        for rows, predictor_rows in minibatches:
            sums += self._step(samples, rows, predictor_rows, statistics, ppo.clip * scale)
        # One copy to the host for all figures, because each copy waits for the device.
        values = torch.cat([sums / len(minibatches), torch.stack(list(batch_figures.values()))]).tolist()
        figures = dict(zip([*FIGURES, *batch_figures], values, strict=True))
        if not all(map(math.isfinite, figures.values())):
            for module, state in zip(self._trained, before, strict=True):
                module.load_state_dict(state)
            return None
        return UpdateReport(figures, learning_rate)

    @torch.no_grad()
    def _prepare(self, batch: Batch, statistics: tuple[Tensor, Tensor]) -> tuple[Samples, dict[str, Tensor]]:
        """Compute what stays constant during the epochs, and statistics of the batch."""
        values = self._values(batch)
        targets = compute_targets(batch, values, self._config)
        predictor_mask = draw_predictor_mask(batch.reward.numel(), self._config, self.generator)
        feature = self._target_features(batch, predictor_mask, statistics)
        samples = make_samples(batch, values.log_prob, targets, predictor_mask, feature)
        batch_figures = {
            "intrinsic_reward_mean": batch.intrinsic.mean(),
            "intrinsic_reward_std": batch.intrinsic.std(),
            "advantage_std": targets.advantage.std(),
            "lag_mean": batch.lag.float().mean(),
        }
        return samples, batch_figures | explained_variance(values, targets) | staleness(
            batch, values, targets
        )

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
        """Compute the bonus with the present predictor, [T, B, ...] -> float32 [T, B]; see `bonus`."""
        return bonus.compute_bonus(
            self.predictor, self.target, observation, statistics, self._config.precision
        )

    def _target_features(
        self, batch: Batch, predictor_mask: Tensor, statistics: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Compute the target network's features of the rows that any epoch selects, float32 [N, F]."""
        if not self._config.rnd.enabled:
            return torch.empty(0)
        needed = predictor_mask.any(0).nonzero().squeeze(1).to(self._device)
        flat = batch.next_observation.flatten(0, 1)
        with autocast(self._config.precision, self._device.type):
            parts = [
                self.target(rnd.whiten(flat[some], *statistics)).float()
                for some in torch.split(needed, _SLICE)
            ]
        computed = torch.cat(parts)
        feature = torch.zeros(len(flat), computed.shape[1], device=self._device)
        feature[needed] = computed
        return feature

    def _step(
        self,
        samples: Samples,
        rows: Tensor,
        predictor_rows: Tensor,
        statistics: tuple[Tensor, Tensor],
        clip: float,
    ) -> Tensor:
        """Take one optimiser step; return `FIGURES` on the device, because a copy makes the host wait."""
        ppo, config = self._config.ppo, self._config
        with autocast(config.precision, self._device.type):
            output = self.policy(observations(samples.stack[rows]))
            predictor_loss = self._predictor_loss(samples, predictor_rows, statistics)

        log_prob = self._distribution.log_prob(output.distribution_parameters, samples.action[rows])
        targets, old = samples.targets, samples.old_log_prob[rows]
        advantage = targets.advantage[rows]
        if ppo.normalise_advantages:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        policy_loss = (targets.weight[rows] * clipped_policy_loss(log_prob, old, advantage, clip)).mean()
        loss_e = value_loss(output.value_extrinsic, targets.extrinsic[rows]).mean()
        loss_i = value_loss(output.value_intrinsic, targets.intrinsic[rows]).mean()
        entropy = self._distribution.entropy(output.distribution_parameters).mean()
        loss = policy_loss + ppo.value_coef * loss_e - ppo.entropy_coef * entropy
        if config.rnd.enabled:
            loss = loss + ppo.value_coef * loss_i + predictor_loss

        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        max_norm = ppo.max_grad_norm or float("inf")
        norms = [nn.utils.clip_grad_norm_(self._policy_parameters(), max_norm)]
        norms.append(
            nn.utils.clip_grad_norm_(self._predictor_parameters(), max_norm)
            if config.rnd.enabled
            else torch.zeros((), device=self._device)
        )
        self.optimiser.step()

        with torch.no_grad():
            log_ratio = log_prob - old
            clipped = (log_ratio.exp() - 1).abs() > clip
            # The unbiased estimator with a low variance: Schulman 2020, "Approximating KL divergence" (k3).
            kl = (log_ratio.exp() - 1 - log_ratio).mean()
            losses = (policy_loss, loss_e, loss_i, entropy, predictor_loss, clipped.float().mean(), kl)
            return torch.stack([x.detach().float() for x in (*losses, *norms)])

    def _predictor_loss(self, samples: Samples, rows: Tensor, statistics: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean prediction error of the rows; 0 if there are none."""
        if not self._config.rnd.enabled or not len(rows):
            return torch.zeros((), device=self._device)
        prediction = self.predictor(rnd.whiten(samples.next_observation[rows], *statistics))
        return rnd.prediction_error(prediction, samples.feature[rows]).mean()

    def tensors(self) -> dict[str, Tensor]:
        """Return policy and predictor by bundle name, on the host."""
        tensors = _on_host("policy", self.policy.state_dict())
        if self._config.rnd.enabled:
            tensors |= _on_host("predictor", self.predictor.state_dict())
        return tensors

    def state(self) -> dict[str, Tensor]:
        """Return everything that `load` restores, by checkpoint name, on the host."""
        state = _on_host("model", self.tensors()) | _on_host("target", self.target.state_dict())
        state |= _on_host("optimiser", optimiser_tensors(self.optimiser))
        return state | {"generator": self.generator.get_state()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state`; other tensors of the checkpoint are ignored."""
        self.policy.load_state_dict(under("model.policy", state))
        if self._config.rnd.enabled:
            self.predictor.load_state_dict(under("model.predictor", state))
        self.target.load_state_dict(under("target", state))
        load_optimiser(self.optimiser, under("optimiser", state))
        self.generator.set_state(state["generator"])


def _on_host(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to host memory, as `prefix.NAME`; a tensor on the host is not copied."""
    return {f"{prefix}.{name}": value.detach().cpu() for name, value in tensors.items()}
