"""The run configuration: frozen values, checked once, shipped by the learner to every actor.

Nothing here reads a file, an environment variable or a flag. Derived numbers are properties.
Key to the sources named below: RND = Burda et al. 2018 (arXiv:1810.12894); PPO = Schulman et al.
2017 (arXiv:1707.06347); GAE = Schulman et al. 2016 (arXiv:1506.02438).
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

Precision = Literal["auto", "float32", "bfloat16"]

_PREDICTOR_LANES = 32  # the predictor learns as many samples as from this many lanes (RND, appendix A.4)


def _require(condition: bool, expected: str, came: object) -> None:
    if not condition:
        raise ValueError(f"expected {expected}, got {came}")


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """The task."""

    id: str = "breakout"
    """An Atari game ("gravitar" or "ALE/Gravitar-v5") or any Gymnasium id ("CartPole-v1")."""
    sticky: float = 0.25
    """Probability per emulator frame that the previous action repeats (RND, table 2)."""
    max_frames: int = 18_000
    """Emulator frames after which an Atari game is cut (RND, appendix A.3)."""
    reward: Literal["sign", "raw", "scaled"] = "sign"
    """What the extrinsic stream learns from: its sign, itself, or itself in deviations of the return."""
    time_limit_is_end: bool = False
    """Treat a time limit as a death, as the RND code does; otherwise bootstrap beyond it."""

    def __post_init__(self) -> None:
        _require(0.0 <= self.sticky < 1.0, "env.sticky in [0, 1)", self.sticky)
        _require(self.max_frames >= 4, "env.max-frames of at least 4", self.max_frames)


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """The shape of experience."""

    steps: int = 128
    """T: steps per lane in a chunk (RND, table 5)."""
    lanes: int = 16
    """B: lanes of one actor."""
    batch_lanes: int = 32
    """E: lanes of one batch, whoever plays them; the lanes of one actor divide it."""

    def __post_init__(self) -> None:
        _require(1 <= self.steps <= 4096, "rollout.steps in [1, 4096]", self.steps)
        _require(1 <= self.lanes <= 1024, "rollout.lanes in [1, 1024]", self.lanes)
        _require(
            self.batch_lanes >= 1 and self.batch_lanes % self.lanes == 0,
            f"rollout.batch-lanes to be a multiple of rollout.lanes ({self.lanes})",
            self.batch_lanes,
        )

    @property
    def chunk_steps(self) -> int:
        """Steps in one chunk, T x B."""
        return self.steps * self.lanes

    @property
    def batch_steps(self) -> int:
        """Steps in one batch, T x E."""
        return self.steps * self.batch_lanes

    @property
    def batch_chunks(self) -> int:
        """Chunks in one batch, E / B."""
        return self.batch_lanes // self.lanes


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Proximal policy optimisation with two reward streams (PPO; RND, section 2.3)."""

    epochs: int = 4
    """Passes over each batch (RND, table 5)."""
    minibatches: int = 4
    """Minibatches per pass (RND, table 5)."""
    clip: float = 0.1
    """Half-width of the probability ratio (RND code, run_atari.py)."""
    learning_rate: float = 1e-4
    """Adam step size (RND, table 5)."""
    anneal: bool = False
    """Scale learning rate and clip linearly from 1 to 0 over the run's steps."""
    adam_eps: float = 1e-5
    """Adam denominator term; the RND code has 1e-8, most PPO code 1e-5."""
    max_grad_norm: float = 0.5
    """Gradient norm bound, of policy and predictor separately; 0 turns it off."""
    entropy_coef: float = 0.001
    """Weight of the entropy bonus (RND, table 5)."""
    value_coef: float = 1.0
    """Weight of 0.5 x squared error of each value head (RND code)."""
    gamma_extrinsic: float = 0.999
    """Discount of the game's reward, cut at an end (RND, table 5)."""
    gamma_intrinsic: float = 0.99
    """Discount of the intrinsic reward, never cut (RND, table 5)."""
    gae_lambda: float = 0.95
    """Trace decay of both streams (GAE; RND, table 5)."""
    coef_extrinsic: float = 2.0
    """Weight of the extrinsic advantage (RND, table 5)."""
    coef_intrinsic: float = 1.0
    """Weight of the intrinsic advantage (RND, table 5)."""
    normalise_advantages: bool = False
    """Per minibatch; the RND code does not, plain PPO code does."""
    correct_lag: bool = True
    """Weigh chunks of older versions (decoupled PPO, V-trace); without, they count as fresh."""
    shuffle: bool = True
    """Minibatches of single steps in random order, or blocks of whole lanes in order."""

    def __post_init__(self) -> None:
        _require(1 <= self.epochs <= 100, "ppo.epochs in [1, 100]", self.epochs)
        _require(self.minibatches >= 1, "ppo.minibatches of at least 1", self.minibatches)
        _require(0.0 < self.clip < 1.0, "ppo.clip in (0, 1)", self.clip)
        _require(self.learning_rate > 0.0, "ppo.learning-rate above 0", self.learning_rate)
        _require(self.adam_eps > 0.0, "ppo.adam-eps above 0", self.adam_eps)
        _require(self.max_grad_norm >= 0.0, "ppo.max-grad-norm of 0 or more", self.max_grad_norm)
        for name in ("learning_rate", "entropy_coef", "value_coef", "coef_extrinsic", "coef_intrinsic"):
            value = getattr(self, name)
            _require(math.isfinite(value), f"a finite ppo.{name.replace('_', '-')}", value)
        for name in ("gamma_extrinsic", "gamma_intrinsic", "gae_lambda"):
            value = getattr(self, name)
            _require(0.0 <= value <= 1.0, f"ppo.{name.replace('_', '-')} in [0, 1]", value)


@dataclass(frozen=True, kw_only=True)
class RNDConfig:
    """Random network distillation (RND, section 2.2 and appendix A)."""

    enabled: bool = True
    """Off: no bonus, no predictor, one reward stream."""
    warmup_steps: int = 204_800
    """Random-action steps, all lanes together, that fill the statistics first; not played without a bonus."""
    learning_rate: float | None = None
    """Adam step size of the predictor; none: the policy's (RND). Small tasks are known too soon by it."""
    predictor_keep: float | None = None
    """Share of samples the predictor learns from; none: 32 / batch lanes, at most 1 (RND, appendix A.4)."""

    def __post_init__(self) -> None:
        _require(self.warmup_steps >= 0, "rnd.warmup-steps of 0 or more", self.warmup_steps)
        keep, rate = self.predictor_keep, self.learning_rate
        _require(keep is None or 0.0 < keep <= 1.0, "rnd.predictor-keep in (0, 1], or none", keep)
        _require(rate is None or rate > 0.0, "rnd.learning-rate above 0, or none", rate)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Shapes of the networks."""

    conv3_kernel: Literal[3, 4] = 3
    """Third convolution of the policy: 3 (Mnih et al. 2015), 4 in the RND code."""
    leaky_slope: float = 0.2
    """Negative slope of the predictor's and target's convolutions (RND code)."""
    hidden: int = 64
    """Width of both tanh layers on vector observations (PPO, section 6.1)."""

    def __post_init__(self) -> None:
        _require(1 <= self.hidden <= 4096, "network.hidden in [1, 4096]", self.hidden)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that defines a run; two runs with equal configurations are the same run."""

    preset: str = "breakout"
    """Name of the preset it started from."""
    seed: int = 1
    """Root of every random stream."""
    total_steps: int = 10_000_000
    """Steps to train on; warm-up does not count."""
    stop_return: float | None = None
    """End earlier, once the mean raw return of the last 100 episodes reaches this."""
    precision: Precision = "auto"
    """Arithmetic of the networks; auto: bfloat16 if the learner has it natively as the run begins."""
    max_lag: int = 0
    """Versions a chunk may be behind its update: 0 synchronous, 1 overlapped, more asynchronous."""
    env: EnvConfig = field(default_factory=EnvConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    rnd: RNDConfig = field(default_factory=RNDConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**63, "seed in [0, 2^63)", self.seed)
        _require(self.total_steps >= 1, "total-steps of at least 1", self.total_steps)
        _require(0 <= self.max_lag <= 64, "max-lag in [0, 64]", self.max_lag)
        _require(
            self.rollout.batch_steps % self.ppo.minibatches == 0,
            f"ppo.minibatches to divide the {self.rollout.batch_steps} steps of a batch",
            self.ppo.minibatches,
        )
        _require(
            self.ppo.shuffle or self.rollout.batch_lanes % self.ppo.minibatches == 0,
            f"ppo.minibatches to divide the {self.rollout.batch_lanes} lanes of a batch",
            self.ppo.minibatches,
        )

    @property
    def updates(self) -> int:
        """Updates in the run: the first number of batches that reaches `total_steps`."""
        return -(-self.total_steps // self.rollout.batch_steps)

    @property
    def warmup_chunks(self) -> int:
        """Chunks of random play before version 0; none without a bonus.

        Statistics of images serve the bonus alone. A policy on vectors begins with their prior then.
        """
        if not self.rnd.enabled:
            return 0
        return -(-self.rnd.warmup_steps // self.rollout.chunk_steps)

    @property
    def predictor_share(self) -> float:
        """Share of samples the predictor learns from."""
        keep = self.rnd.predictor_keep
        return min(1.0, _PREDICTOR_LANES / self.rollout.batch_lanes) if keep is None else keep

    def plays_like(self, other: Config) -> bool:
        """Whether chunks of both runs are interchangeable: all but the run's length agrees."""
        mine, theirs = (dataclasses.replace(c, total_steps=1, stop_return=None) for c in (self, other))
        return mine == theirs

    def to_json(self) -> str:
        """Serialise; `from_json` restores an equal value."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    @staticmethod
    def from_json(text: str | bytes) -> Config:
        """Restore a configuration.

        Raises:
            ValueError: not JSON, an unknown field, a wrong type, or a refused value.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"expected a configuration in JSON, got unreadable text: {error}") from None
        value = _build(Config, data, "configuration")
        assert isinstance(value, Config)
        return value


def _build(kind: type, data: object, where: str) -> object:
    """Construct dataclass `kind` from plain JSON; a missing field, younger than the text, has its default."""
    if not isinstance(data, dict):
        raise ValueError(f"expected an object at {where}, got {type(data).__name__}")
    hints = typing.get_type_hints(kind)
    odd = sorted(set(data) - set(hints))
    if odd:
        raise ValueError(f"expected fields of {kind.__name__} at {where}, got also {odd}")
    return kind(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in data.items()})


def _value(hint: Any, value: Any, where: str) -> object:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if typing.get_origin(hint) is Literal:
        known = any(type(value) is type(choice) and value == choice for choice in typing.get_args(hint))
        _require(known, f"one of {typing.get_args(hint)} at {where}", value)
        return value
    if isinstance(hint, types.UnionType):  # a value, or none
        return None if value is None else _value(typing.get_args(hint)[0], value, where)
    wanted = (int, float) if hint is float else hint
    if not isinstance(value, wanted) or isinstance(value, bool) != (hint is bool):
        raise ValueError(f"expected {hint.__name__} at {where}, got {value!r}")
    try:
        return hint(value)
    except OverflowError:
        raise ValueError(f"expected {hint.__name__} at {where}, got too large a number") from None
