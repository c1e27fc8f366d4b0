"""What the service must compute, as one short loop in one process, for comparison to the last bit.

E = N x k lanes of N slots are stepped one after the other, each in an environment of its own. There are
no messages, no credit and no joining of chunks: stacks are kept as the policy saw them, and every filter
belongs to a lane. Rounding depends on shapes, so two shapes are those of the service: a slot's k lanes are
one forward pass of the policy, and the bonuses of its T x k next observations are computed together.

Networks, moments, targets, the update (`learner.training.ppo`) and `Policy` are the product's own. The
comparison proves the path of the data: which sessions play, what is counted and in which order. It does not
prove the algorithm; tests/support/plain_update.py does, because its updates use no code of the product.

The statistics are filled by random play first, one chunk per slot: `rnd.warmup_steps` is E x T.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common import envs
from common.config import Config
from common.model import rnd
from common.model.bonus import BonusModel
from common.model.bundle import Bundle
from common.model.policy import Policy
from common.rng import RngKey, draws, environment_seeds
from learner.training.batch import Batch
from learner.training.ppo import PPO
from learner.training.running_stats import Moments
from learner.training.targets import compute_targets

Array = npt.NDArray[Any]
Facts = dict[str, Tensor]  # of a run by name: "update V: NAME" of each update, and a checkpoint's tensors
Schedule = Sequence[Sequence[tuple[int, int]]]  # by update: slot and version of each chunk, in batch order

_CLIP = 10.0  # of vectors for the policy, and of scaled rewards


@dataclass(frozen=True, slots=True, eq=False)
class Play:
    """T steps of some lanes, time first; `stack` and `final` are what the policy saw or would have seen."""

    stack: Array  # [T + 1, k, S, ...]
    final: Array  # [T, k, S, ...], the stack that each time limit cut off; zero elsewhere
    action: Array  # [T, k, ...]
    log_prob: Array  # [T, k], like all that follow
    reward: Array
    terminated: Array
    truncated: Array

    @property
    def newest(self) -> Array:
        """The newest observation of each stack, [T + 1, k, ...]."""
        return np.ascontiguousarray(self.stack[:, :, -1])


def join_lanes(plays: Sequence[Play]) -> Play:
    """Join the plays of several slots on the lane axis."""
    return Play(*(np.concatenate([getattr(play, x.name) for play in plays], 1) for x in fields(Play)))


class Reference:
    """A run of `config` in one process. Subclasses override a method in order to add a bug.

    Args:
        config: float32, with a bonus.
        lanes: E environments of one lane each; slot i has the i-th k of them.
        schedule: the chunks of each batch; None: one of each slot, with the newest version.
        reset_after: updates after which all lanes are reset, in their next incarnation; None: never.
    """

    def __init__(
        self,
        config: Config,
        lanes: Sequence[envs.VectorEnv],
        schedule: Schedule | None = None,
        reset_after: int | None = None,
    ) -> None:
        self.config, self.k = config, config.rollout.lanes
        self.slots = range(config.rollout.batch_chunks)
        self.schedule = schedule or [[(slot, v) for slot in self.slots] for v in range(config.updates)]
        self.reset_after = reset_after
        self.lanes = [lanes[slot * self.k : (slot + 1) * self.k] for slot in self.slots]
        self.spaces = envs.spaces(config.env)
        self.ppo = PPO(config, self.spaces, torch.device("cpu"))
        self.policy = Policy(self.spaces, config)
        self.intrinsic = BonusModel(self.spaces, config, self.ppo.target.state_dict())
        self.observation = Moments.prior(self.spaces.observation)
        self.moments = {"intrinsic": Moments.prior(()), "extrinsic": Moments.prior(())}
        self.filters: defaultdict[tuple[int, int], float] = defaultdict(float)  # (slot, lane)
        self.returns: defaultdict[tuple[int, int], float] = defaultdict(
            float
        )  # (slot, lane), of this incarnation
        self.bundles: dict[int, dict[str, Tensor]] = {}  # by version
        self.facts: Facts = {}

    def run(self) -> Facts:
        """Play and train to the end."""
        self.reset(incarnation=0, warmup=True)
        plays = [self.play(slot, None) for slot in self.slots]
        for slot, play in zip(self.slots, plays, strict=True):
            self.observe([slot], play)
        self.reset(incarnation=0)
        for version in range(self.config.updates):
            if version == self.reset_after:
                self.reset(incarnation=1)
            self.publish(version)
            self.update(version)
        return self.facts | self.saved()

    def reset(self, incarnation: int, warmup: bool = False) -> None:
        """Reset every lane, with its random streams."""
        keys = [RngKey(self.config.seed, slot, incarnation, warmup) for slot in self.slots]
        self.streams = [key.generators(self.k) for key in keys]
        seeds = [environment_seeds(streams) for streams in self.streams]
        self.now = [
            np.concatenate([self.lanes[slot][i].reset(seeds[slot][i : i + 1]) for i in range(self.k)])
            for slot in self.slots
        ]
        self.returns.clear()

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the observations so far, float32."""
        mean, std = self.observation.mean, self.observation.std
        return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(std.astype(np.float32))

    def publish(self, version: int) -> None:
        """Keep the tensors that slots act with."""
        mean, std = self.statistics()
        weights = {name: value.clone() for name, value in self.ppo.tensors().items()}
        self.bundles[version] = weights | {"mean": mean, "std": std}

    def bundle(self, slot: int, version: int) -> Bundle:
        """The bundle that `slot` acts with under `version`."""
        return Bundle(0, version, self.bundles[version])

    def play(self, slot: int, version: int | None) -> Play:
        """T steps of one slot's lanes, by its policy or at random."""
        if version is not None:
            self.policy.load(self.bundle(slot, version))
        steps = [self.step(slot, random=version is None) for _ in range(self.config.rollout.steps)]
        stack, *rest = (np.stack(rows) for rows in zip(*steps, strict=True))
        return Play(np.concatenate([stack, self.now[slot][None]]), *rest)

    def step(self, slot: int, random: bool) -> tuple[Array, ...]:
        """One step of one slot's lanes: a row of each field of `Play`."""
        stack, uniform = self.now[slot], draws(self.streams[slot], self.spaces)
        if random:
            action: Array = (uniform * self.spaces.actions).astype(np.int32)
            log_prob: Array = np.zeros(self.k, np.float32)
        else:
            action, log_prob = self.policy.act(stack, uniform)
        moved = [lane.step(action[i : i + 1]) for i, lane in enumerate(self.lanes[slot])]
        final = np.zeros_like(stack)
        for i, lane in enumerate(moved):
            if lane.truncated[0]:
                final[i] = np.concatenate([stack[i, 1:], lane.final])
        self.now[slot] = np.concatenate([lane.stack for lane in moved])
        reward, terminated, truncated = (np.concatenate(x) for x in list(zip(*moved, strict=True))[1:4])
        return stack, final, action, log_prob, reward, terminated, truncated

    def update(self, version: int) -> None:
        """Play one batch, compute its bonuses, update the statistics and train."""
        chunks, acted_under = list(self.schedule[version]), self.statistics()
        plays = [self.play(slot, played) for slot, played in chunks]
        chunks, plays = self.arrange(chunks, plays)
        whole, slots = join_lanes(plays), [slot for slot, _ in chunks]
        lag = np.repeat([version - played for _, played in chunks], self.k)
        bonus = self.compute_bonus(chunks, plays)
        if lag.any():
            stale = torch.from_numpy(whole.newest[1:, lag > 0])
            with torch.no_grad():
                errors = rnd.bonus(self.ppo.predictor, self.ppo.target, stale.flatten(0, 1), *acted_under)
            bonus[:, lag > 0] = errors.view(stale.shape[:2]).numpy()
        intrinsic = self.scale("intrinsic", bonus, self.discounted_bonus(slots, bonus))
        reward = whole.reward if self.config.env.reward == "raw" else np.sign(whole.reward)
        if self.config.env.reward == "scaled":
            scaled = self.scale("extrinsic", whole.reward, self.discounted_reward(slots, whole))
            reward = np.clip(scaled, -_CLIP, _CLIP)
        self.observe(slots, whole)
        batch = self.batch(whole, lag, reward, intrinsic, acted_under)
        self.record(version, batch, bonus)
        self.ppo.update(batch, self.statistics(), version / self.config.updates)

    def arrange(
        self, chunks: list[tuple[int, int]], plays: list[Play]
    ) -> tuple[list[tuple[int, int]], list[Play]]:
        """The order of a batch: that of the schedule, by slot."""
        return chunks, plays

    def compute_bonus(self, chunks: list[tuple[int, int]], plays: list[Play]) -> npt.NDArray[np.float32]:
        """The bonus of each step by the bundle that its slot acted with, float32 [T, E]."""
        parts = []
        for (slot, version), play in zip(chunks, plays, strict=True):
            self.intrinsic.load(self.bundle(slot, version))
            parts.append(self.intrinsic.compute_bonus(play.newest[1:]))
        return np.concatenate(parts, 1)

    def observe(self, slots: list[int], play: Play) -> None:
        """Merge the current observations s_0 .. s_{T-1} of the slots' lanes."""
        current = play.newest[:-1]
        self.observation = self.observation.merge(Moments.of(current.reshape(-1, *current.shape[2:])))

    def key(self, slot: int, lane: int) -> tuple[int, int]:
        """The key of the filter of a lane's bonuses."""
        return slot, lane

    def discounted_bonus(self, slots: list[int], bonus: Array) -> npt.NDArray[np.float64]:
        """The discounted sums of each lane's bonuses, which no end resets, [T, E]."""
        filtered, gamma = np.empty(bonus.shape), self.config.ppo.gamma_intrinsic
        for column, key in enumerate(self.key(slot, lane) for slot in slots for lane in range(self.k)):
            for t in range(len(bonus)):
                self.filters[key] = gamma * self.filters[key] + float(bonus[t, column])
                filtered[t, column] = self.filters[key]
        return filtered

    def discounted_reward(self, slots: list[int], play: Play) -> npt.NDArray[np.float64]:
        """The discounted sums of each lane's rewards since its last end, [T, E]."""
        filtered, gamma = np.empty(play.reward.shape), self.config.ppo.gamma_extrinsic
        for column, key in enumerate((slot, lane) for slot in slots for lane in range(self.k)):
            for t in range(len(filtered)):
                self.returns[key] = gamma * self.returns[key] + float(play.reward[t, column])
                filtered[t, column] = self.returns[key]
                if play.terminated[t, column] or play.truncated[t, column]:
                    self.returns[key] = 0.0
        return filtered

    def scale(self, stream: str, raw: Array, filtered: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Divide raw rewards by the standard deviation of all filtered values, this batch included."""
        self.moments[stream] = self.moments[stream].merge(Moments.of(filtered.reshape(-1)))
        return (raw.astype(np.float64) / self.moments[stream].std).astype(np.float32)

    def batch(
        self, play: Play, lag: Array, reward: Array, intrinsic: Array, acted_under: tuple[Tensor, Tensor]
    ) -> Batch:
        """The tensors of one update, with the stack axis last."""
        stack, final = torch.from_numpy(play.stack), torch.from_numpy(play.final[play.truncated])
        if not self.spaces.is_image:
            stack, final = (rnd.whiten(x, *acted_under, _CLIP) for x in (stack, final))
        return Batch(
            stack=stack.movedim(2, -1).contiguous(),
            final_stack=final.movedim(1, -1).contiguous(),
            next_observation=torch.from_numpy(play.newest[1:]),
            action=torch.from_numpy(play.action).to(torch.int64),
            log_prob=torch.from_numpy(play.log_prob),
            lag=torch.from_numpy(lag),
            reward=torch.from_numpy(reward),
            intrinsic=torch.from_numpy(intrinsic),
            terminated=torch.from_numpy(play.terminated),
            truncated=torch.from_numpy(play.truncated),
            life_lost=torch.zeros_like(torch.from_numpy(play.truncated)),
        )

    @torch.no_grad()
    def record(self, version: int, batch: Batch, bonus: Array) -> None:
        """Keep the data of the update."""
        targets = compute_targets(batch, self.ppo._values(batch), self.config)
        named = {x.name: getattr(batch, x.name) for x in fields(batch)} | {"bonus": torch.from_numpy(bonus)}
        named |= {f"target {x.name}": getattr(targets, x.name) for x in fields(targets)}
        self.facts |= {f"update {version}: {name}": value for name, value in named.items()}

    def saved(self) -> Facts:
        """The tensors that a checkpoint of the run must hold."""
        facts = {f"model.{name}": value for name, value in self.ppo.tensors().items()}
        facts |= {f"target.{name}": value for name, value in self.ppo.target.state_dict().items()}
        for number, state in self.ppo.optimiser.state_dict()["state"].items():
            facts |= {f"optimiser.{number}.{name}": value for name, value in state.items()}
        for name, moments in {"observation": self.observation, **self.moments}.items():
            facts[f"normaliser.{name}.count"] = torch.tensor(moments.count, dtype=torch.float64)
            facts[f"normaliser.{name}.mean"] = torch.as_tensor(moments.mean)
            facts[f"normaliser.{name}.var"] = torch.as_tensor(moments.var)
        for slot in self.slots:
            carry = [self.filters[self.key(slot, lane)] for lane in range(self.k)]
            facts[f"normaliser.filter.{slot}"] = torch.tensor(carry, dtype=torch.float64)
        return facts | {"generator": self.ppo.generator.get_state()}


def differing(ours: Facts, theirs: Facts) -> list[str]:
    """Names of the facts that differ: missing, of another type or shape, or with another bit."""

    def bits(value: Tensor | None) -> object:
        if value is None:
            return None
        return value.dtype, value.shape, value.detach().contiguous().numpy().tobytes()

    names = sorted(ours.keys() | theirs.keys())
    return [name for name in names if bits(ours.get(name)) != bits(theirs.get(name))]
