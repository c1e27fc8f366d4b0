"""Updates of PPO and RND on vectors as the papers give them, in float64, without any code of the product.

Names of weights and of settings are those of the product; the two have nothing else in common. Chunks
are fresh, so nothing is corrected for lag.
Sources: Schulman et al. 2016 (GAE), 2017 (PPO); Burda et al. 2018 (RND); Kingma and Ba 2015 (Adam);
Engstrom et al. 2020 (reward scaling).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]


def network(state: State, x: Tensor, activation: Any) -> Tensor:
    """Linear layers in their order, an activation between each two."""
    layers = sorted({int(name.split(".")[0]) for name in state})
    for layer in layers:
        x = x @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
        x = activation(x) if layer != layers[-1] else x
    return x


def part(state: State, prefix: str) -> State:
    """The weights under `prefix.`."""
    return {name[len(prefix) + 1 :]: x for name, x in state.items() if name.startswith(prefix + ".")}


def gae(
    reward: Tensor, value: Tensor, next_value: Tensor, cut: Tensor, end: Tensor, gamma: float, lam: float
) -> Tensor:
    """The discounted sum of later errors: no value follows a `cut`, and no error an `end`, [T, E]."""
    advantage, later = torch.zeros_like(reward), torch.zeros_like(reward[0])
    for t in reversed(range(len(reward))):
        error = reward[t] + gamma * next_value[t] * ~cut[t] - value[t]
        later = error + gamma * lam * later * ~end[t]
        advantage[t] = later
    return advantage


class Samples:
    """All samples so far, and a prior of mean 0 and variance 1 that weighs 1e-4 of a sample."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.all = torch.zeros(0, *shape, dtype=torch.float64)

    def add(self, samples: Tensor) -> None:
        self.all = torch.cat([self.all, samples.reshape(-1, *self.all.shape[1:])])

    def mean(self) -> Tensor:
        return self.all.sum(0) / (len(self.all) + 1e-4)

    def std(self) -> Tensor:
        mean = self.mean()
        squares = (self.all - mean).square().sum(0) + 1e-4 * (1 + mean.square())
        return (squares / (len(self.all) + 1e-4)).sqrt()


class Adam:
    """Steps of one network whose gradient is bounded by its norm."""

    def __init__(self, net: State, bound: float, eps: float) -> None:
        self.parameters, self.bound, self.eps, self.steps = list(net.values()), bound, eps, 0
        self.moments = [(torch.zeros_like(x), torch.zeros_like(x)) for x in self.parameters]

    def step(self, loss: Tensor, rate: float) -> None:
        gradients = torch.autograd.grad(loss, self.parameters)
        norm = float(torch.stack([g.square().sum() for g in gradients]).sum().sqrt())
        self.steps += 1
        for x, g, (first, second) in zip(self.parameters, gradients, self.moments, strict=True):
            bounded = g * min(1.0, self.bound / (norm + 1e-6))
            first.mul_(0.9).add_(0.1 * bounded)
            second.mul_(0.999).add_(0.001 * bounded.square())
            mean, square = first / (1 - 0.9**self.steps), second / (1 - 0.999**self.steps)
            with torch.no_grad():
                x.sub_(rate * mean / (square.sqrt() + self.eps))


class Plain:
    """Networks, optimiser and statistics of a run."""

    def __init__(self, config: Any, policy: State, predictor: State, target: State, dimensions: int) -> None:
        self.config = config
        self.policy, self.predictor, self.target = (
            {name: x.detach().double().clone() for name, x in net.items()}
            for net in (policy, predictor, target)
        )
        for x in (*self.policy.values(), *self.predictor.values()):
            x.requires_grad_(True)
        ppo = config.ppo
        self.adam = [Adam(net, ppo.max_grad_norm, ppo.adam_eps) for net in (self.policy, self.predictor)]
        self.observation, self.bonus, self.reward = Samples((dimensions,)), Samples(()), Samples(())
        self.bonus_sum: Any = 0.0  # of each lane, discounted; no end interrupts it
        self.reward_sum: Any = 0.0  # of each lane, discounted, since the last end

    def white(self, x: Tensor, clip: float) -> Tensor:
        return ((x - self.observation.mean()) / self.observation.std()).clamp(-clip, clip)

    def evaluate(self, white: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of all actions [..., A], and both values [..., 2]."""
        logits = network(part(self.policy, "actor"), white, torch.tanh)
        return torch.log_softmax(logits, -1), network(part(self.policy, "critic"), white, torch.tanh)

    def update(
        self, chunk: dict[str, np.ndarray], done: float, kept: Tensor, orders: Sequence[Tensor]
    ) -> None:
        """Train on one batch.

        Args:
            chunk: observation [T + 1, E, D], final_observation [K, D]; the rest [T, E].
            done: share of the run's updates that are done.
            kept: bool [epochs, T x E], rows that the predictor learns from in each epoch.
            orders: of the rows in each epoch.
        """
        ppo, scale = self.config.ppo, 1 - done if self.config.ppo.anneal else 1.0
        data = {name: torch.from_numpy(x) for name, x in chunk.items()}
        seen, action = data["observation"].double(), data["action"].long().flatten()
        terminated, truncated = data["terminated"], data["truncated"]
        end = terminated | truncated
        intrinsic, extrinsic = self.rewards(data["bonus"].double(), data["reward"].double(), end)
        white, final = self.white(seen, 10.0), self.white(data["final_observation"].double(), 10.0)
        self.observation.add(seen[:-1])
        inputs, next_seen = white[:-1].flatten(0, 1), self.white(seen[1:].flatten(0, 1), 5.0)
        with torch.no_grad():
            log_probs, values = self.evaluate(white)
            last = self.evaluate(final)[1][:, 0]
        old = log_probs[:-1].flatten(0, 1).gather(1, action[:, None])[:, 0]
        after = values[1:, :, 0].clone()
        after[truncated] = last
        never, lam = torch.zeros_like(end), ppo.gae_lambda
        gains = [
            gae(extrinsic, values[:-1, :, 0], after, terminated, end, ppo.gamma_extrinsic, lam),
            gae(intrinsic, values[:-1, :, 1], values[1:, :, 1], never, never, ppo.gamma_intrinsic, lam),
        ]
        targets = torch.stack(gains, -1) + values[:-1]
        advantage = (ppo.coef_extrinsic * gains[0] + ppo.coef_intrinsic * gains[1]).flatten()
        for keep, order in zip(kept, orders, strict=True):
            for rows in order.view(ppo.minibatches, -1):
                log_probs, value = self.evaluate(inputs[rows])
                gain = (advantage[rows] - advantage[rows].mean()) / (advantage[rows].std() + 1e-8)
                ratio = (log_probs.gather(1, action[rows, None])[:, 0] - old[rows]).exp()
                clipped = ratio.clamp(1 - ppo.clip * scale, 1 + ppo.clip * scale)
                loss = -torch.minimum(gain * ratio, gain * clipped).mean()
                loss = loss + ppo.entropy_coef * (log_probs.exp() * log_probs).sum(1).mean()
                errors = 0.5 * (value - targets.flatten(0, 1)[rows]).square()
                self.adam[0].step(loss + ppo.value_coef * errors.mean(0).sum(), ppo.learning_rate * scale)
                learned = next_seen[rows[keep[rows]]]
                if len(learned):  # a minibatch that keeps no row takes no step
                    leaky = torch.nn.LeakyReLU(0.2)
                    features = [network(net, learned, leaky) for net in (self.predictor, self.target)]
                    loss = (features[0] - features[1]).square().mean()
                    self.adam[1].step(loss, self.config.rnd.learning_rate * scale)

    def rewards(self, bonus: Tensor, reward: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Both rewards, divided by the standard deviation of their discounted sums, this batch included."""
        sums: list[list[Tensor]] = [[], []]
        for t in range(len(reward)):
            self.bonus_sum = self.config.ppo.gamma_intrinsic * self.bonus_sum + bonus[t]
            self.reward_sum = self.config.ppo.gamma_extrinsic * self.reward_sum + reward[t]
            sums[0].append(self.bonus_sum)
            sums[1].append(self.reward_sum)
            self.reward_sum = self.reward_sum * ~end[t]
        self.bonus.add(torch.stack(sums[0]))
        self.reward.add(torch.stack(sums[1]))
        return bonus / self.bonus.std(), (reward / self.reward.std()).clamp(-10.0, 10.0)
