"""PPO and RND as a plain float32 program: the reference for the learner's speed.

It has the losses and the networks of `learner.training.ppo`, without its optimisations: it converts images in
NCHW to floats for each minibatch, applies the predictor to every row and masks the result, computes the
target's features again in each epoch, and uses an Adam that is not fused.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import Config
from learner.training.batch import Batch
from learner.training.ppo import PPO
from learner.training.targets import Values, compute_targets

_SLICE = 512


class Naive:
    """An update that starts with the weights of `ppo`; for images and discrete actions only."""

    def __init__(self, ppo: PPO, config: Config, device: torch.device) -> None:
        self._ppo, self._device = config.ppo, device
        self._config, self._keep = config, config.predictor_share
        self.policy, self.predictor, self.target = (
            {
                name: value.detach().clone(memory_format=torch.contiguous_format)
                for name, value in x.state_dict().items()
            }
            for x in (ppo.policy, ppo.predictor, ppo.target)
        )
        self._slope = config.network.leaky_slope
        groups = [[x.requires_grad_() for x in net.values()] for net in (self.policy, self.predictor)]
        self._groups = groups
        self._optimiser = torch.optim.Adam(
            [x for group in groups for x in group],
            config.ppo.learning_rate,
            eps=config.ppo.adam_eps,
            foreach=False,
        )

    def update(self, batch: Batch, statistics: tuple[Tensor, Tensor]) -> dict[str, float]:
        """Train on one batch; return the mean losses."""
        ppo = self._ppo
        stack = batch.stack[:-1].flatten(0, 1).movedim(-1, 1).contiguous()
        last = batch.stack[-1].movedim(-1, 1).contiguous()
        next_observation = batch.next_observation.flatten(0, 1)
        action = batch.action.flatten()
        values = self._values(batch, stack, last, action)
        targets = compute_targets(batch, values, self._config)
        old, advantage = values.log_prob.flatten(), targets.advantage.flatten()
        extrinsic, intrinsic = targets.extrinsic.flatten(), targets.intrinsic.flatten()
        sums: dict[str, float] = {}
        for _ in range(ppo.epochs):
            order = torch.randperm(len(action), device=self._device)
            for rows in order.view(ppo.minibatches, -1):
                logits, value = self._act(stack[rows])
                log_probs = F.log_softmax(logits, 1)
                ratio = (log_probs.gather(1, action[rows, None])[:, 0] - old[rows]).exp()
                a = advantage[rows]
                policy_loss = -torch.min(a * ratio, a * ratio.clamp(1 - ppo.clip, 1 + ppo.clip)).mean()
                losses = {
                    "policy_loss": policy_loss,
                    "value_loss_extrinsic": 0.5 * F.mse_loss(value[:, 0], extrinsic[rows]),
                    "value_loss_intrinsic": 0.5 * F.mse_loss(value[:, 1], intrinsic[rows]),
                    "entropy": -(log_probs.exp() * log_probs).sum(1).mean(),
                    "predictor_loss": self._predictor_loss(next_observation[rows], statistics),
                }
                self._step(losses)
                for name, loss in losses.items():
                    sums[name] = sums.get(name, 0.0) + loss.item()
        count = ppo.epochs * ppo.minibatches
        return {name: total / count for name, total in sums.items()}

    def _step(self, losses: dict[str, Tensor]) -> None:
        ppo = self._ppo
        value_loss = losses["value_loss_extrinsic"] + losses["value_loss_intrinsic"]
        loss = losses["policy_loss"] + ppo.value_coef * value_loss
        loss = loss - ppo.entropy_coef * losses["entropy"] + losses["predictor_loss"]
        self._optimiser.zero_grad()
        torch.autograd.backward(loss)
        for group in self._groups:
            nn.utils.clip_grad_norm_(group, ppo.max_grad_norm or float("inf"))
        self._optimiser.step()

    @torch.no_grad()
    def _values(self, batch: Batch, stack: Tensor, last: Tensor, action: Tensor) -> Values:
        parts = [self._act(rows) for rows in (*torch.split(stack, _SLICE), *torch.split(last, _SLICE))]
        logits, value = (torch.cat(part) for part in zip(*parts, strict=True))
        steps, lanes = batch.reward.shape
        log_prob = F.log_softmax(logits[: steps * lanes], 1).gather(1, action[:, None])[:, 0]
        final = batch.final_stack.movedim(-1, 1)
        return Values(
            log_prob.view(steps, lanes),
            value[:, 0].view(steps + 1, lanes),
            value[:, 1].view(steps + 1, lanes),
            self._act(final)[1][:, 0] if len(final) else value[:0, 0],
        )

    def _act(self, stack: Tensor) -> tuple[Tensor, Tensor]:
        net = self.policy
        x = stack.float() / 255.0
        for name, stride in (("conv1", 4), ("conv2", 2), ("conv3", 1)):
            x = F.relu(F.conv2d(x, net[f"{name}.weight"], net[f"{name}.bias"], stride=stride))
        x = x.flatten(1)
        for name in ("dense1", "dense2"):
            x = F.relu(_linear(net, name, x))
        values = _linear(net, "values", x + F.relu(_linear(net, "value_branch", x)))
        logits = _linear(net, "logits", x + F.relu(_linear(net, "action_branch", x)))
        return logits, values

    def _predictor_loss(self, observation: Tensor, statistics: tuple[Tensor, Tensor]) -> Tensor:
        mean, std = statistics
        x = ((observation.float() - mean) / std).clamp(-5, 5).unsqueeze(1)
        with torch.no_grad():
            feature = self._embed(self.target, x)
        error = (self._embed(self.predictor, x) - feature).pow(2).mean(1)
        mask = (torch.rand(len(error), device=self._device) < self._keep).float()
        return (error * mask).sum() / mask.sum().clamp(min=1)

    def _embed(self, net: dict[str, Tensor], x: Tensor) -> Tensor:
        for name, stride in (("conv1", 4), ("conv2", 2), ("conv3", 1)):
            x = F.leaky_relu(
                F.conv2d(x, net[f"{name}.weight"], net[f"{name}.bias"], stride=stride), self._slope
            )
        x = _linear(net, "dense.0", x.flatten(1))
        number = 1
        while f"dense.{number}.weight" in net:
            x = _linear(net, f"dense.{number}", F.relu(x))
            number += 1
        return x


def _linear(net: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, net[f"{name}.weight"], net[f"{name}.bias"])
