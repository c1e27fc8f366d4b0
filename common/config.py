"""The run configuration: frozen values, validated when they are built; the learner sends them to every actor.

This module reads no file, environment variable or flag. Derived numbers are properties. Sources: RND is
Burda et al. 2018 (arXiv:1810.12894); PPO is Schulman et al. 2017 (arXiv:1707.06347); GAE is Schulman et al.
2016 (arXiv:1506.02438).
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

_TEXT_CHARACTERS = 256
_PREDICTOR_LANES = 32  # the predictor trains on the samples of this many lanes (RND, appendix A.4)


def _require(condition: bool, expected: str, value: object) -> None:
    if not condition:
        raise ValueError(f"expected {expected}, got {value}")


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """The environment."""

    id: str = "breakout"
    """An Atari game ("gravitar" or "ALE/Gravitar-v5") or a Gymnasium id ("CartPole-v1")."""
    sticky: float = 0.25
    """Probability per emulator frame that the previous action repeats (RND, table 2)."""
    max_frames: int = 18_000
    """Emulator frames after which an Atari episode is truncated (RND, appendix A.3)."""
    frame_skip: int = 4
    """Emulator frames of a step, which repeat its action (RND, table 2)."""
    noop_max: int = 0
    """Maximum number of frames without an action at the start of an Atari episode, drawn uniformly."""
    fire_on_reset: bool = False
    """Press FIRE at the start of an Atari episode, if the game has this action."""
    full_actions: bool = False
    """Use all 18 actions of the emulator instead of those that the game distinguishes."""
    life_loss_is_end: bool = False
    """Treat a lost life as a terminal state of the extrinsic return. Scores are those of whole games."""
    reward: Literal["sign", "raw", "scaled"] = "sign"
    """Extrinsic reward: its sign, its raw value, or its value over the standard deviation of the
    discounted return, clipped to [-10, 10]."""
    time_limit_is_end: bool = False
    """Treat a time limit as a terminal state, as the RND code does; otherwise bootstrap from it."""

    def __post_init__(self) -> None:
        _require(0.0 <= self.sticky < 1.0, "env.sticky in [0, 1)", self.sticky)
        _require(1 <= self.frame_skip <= 64, "env.frame-skip in [1, 64]", self.frame_skip)
        _require(self.max_frames >= self.frame_skip, "env.max-frames of at least a step", self.max_frames)
        _require(0 <= self.noop_max <= 1_000, "env.noop-max in [0, 1000]", self.noop_max)


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """The shape of chunks and batches."""

    steps: int = 128
    """T: steps per lane in a chunk (RND, table 5)."""
    lanes: int = 16
    """B: lanes of one actor."""
    batch_lanes: int = 32
    """E: lanes of one batch; a multiple of the lanes of one actor."""

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
    """Epochs: passes over each batch (RND, table 5)."""
    minibatches: int = 4
    """Minibatches per epoch (RND, table 5)."""
    clip: float = 0.1
    """Clip range of the probability ratio (RND code, run_atari.py)."""
    learning_rate: float = 1e-4
    """Learning rate of Adam (RND, table 5)."""
    anneal: bool = False
    """Scale the learning rate and the clip range linearly from 1 to 0 over the steps of the run."""
    adam_eps: float = 1e-5
    """Epsilon of Adam; the RND code has 1e-8, most PPO code 1e-5."""
    max_grad_norm: float = 0.5
    """Maximum gradient norm, for the policy and the predictor separately; 0: no clipping."""
    entropy_coef: float = 0.001
    """Weight of the entropy bonus (RND, table 5)."""
    value_coef: float = 1.0
    """Weight of the value loss, 0.5 x the squared error of each value head (RND code)."""
    gamma_extrinsic: float = 0.999
    """Discount of the extrinsic reward; the return ends with the episode (RND, table 5)."""
    gamma_intrinsic: float = 0.99
    """Discount of the intrinsic reward; the return continues across episodes (RND, table 5)."""
    gae_lambda: float = 0.95
    """Lambda of GAE, for both reward streams (RND, table 5)."""
    coef_extrinsic: float = 2.0
    """Weight of the extrinsic advantage (RND, table 5)."""
    coef_intrinsic: float = 1.0
    """Weight of the intrinsic advantage (RND, table 5)."""
    normalise_advantages: bool = False
    """Normalise advantages per minibatch; PPO code usually does, the RND code does not."""
    correct_lag: bool = True
    """Correct for chunks of older versions (decoupled PPO, V-trace); off: treat them as on-policy."""
    shuffle: bool = True
    """Draw minibatches from all steps in random order; off: use consecutive groups of lanes."""

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
    """Compute the bonus; off: no predictor and one reward stream."""
    warmup_steps: int = 204_800
    """Steps with random actions, over all lanes, that start the observation statistics; only with a bonus."""
    learning_rate: float | None = None
    """Learning rate of the predictor; none: that of the policy (RND), which is too high for small tasks."""
    predictor_keep: float | None = None
    """Share of samples that train the predictor; none: 32 / batch lanes, at most 1 (RND, appendix A.4)."""

    def __post_init__(self) -> None:
        _require(self.warmup_steps >= 0, "rnd.warmup-steps of 0 or more", self.warmup_steps)
        keep, rate = self.predictor_keep, self.learning_rate
        _require(keep is None or 0.0 < keep <= 1.0, "rnd.predictor-keep in (0, 1], or none", keep)
        _require(rate is None or rate > 0.0, "rnd.learning-rate above 0, or none", rate)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The shapes of the networks."""

    conv3_kernel: Literal[3, 4] = 3
    """Kernel size of the third convolution of the policy: 3 (Mnih et al. 2015), or 4 (RND code)."""
    leaky_slope: float = 0.2
    """Negative slope of the leaky ReLU of predictor and target (RND code)."""
    hidden: int = 64
    """Width of both tanh layers for vector observations (PPO, section 6.1)."""

    def __post_init__(self) -> None:
        _require(1 <= self.hidden <= 4096, "network.hidden in [1, 4096]", self.hidden)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting of a run; equal configurations define the same run."""

    preset: str = "none"
    """Name of the preset that the settings start from."""
    seed: int = 1
    """Seed of every random stream."""
    total_steps: int = 10_000_000
    """Steps to train on; the warm-up does not count."""
    stop_return: float | None = None
    """End the run when the mean raw return of the last 100 episodes reaches this value."""
    precision: Precision = "auto"
    """Precision of the networks; auto: bfloat16 if the learner's device supports it when the run begins."""
    max_lag: int = 0
    """Maximum lag of a chunk in versions: 0 is synchronous, 1 overlapped, 2 or more asynchronous."""
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
        """Updates in the run: the least number of batches with at least `total_steps` steps."""
        return -(-self.total_steps // self.rollout.batch_steps)

    @property
    def warmup_chunks(self) -> int:
        """Chunks with random actions before version 0; none without a bonus.

        Without a bonus, images need no statistics, and the statistics of vectors begin with their prior.
        """
        if not self.rnd.enabled:
            return 0
        return -(-self.rnd.warmup_steps // self.rollout.chunk_steps)

    @property
    def predictor_share(self) -> float:
        """The fraction of the samples that train the predictor, in (0, 1]."""
        keep = self.rnd.predictor_keep
        return min(1.0, _PREDICTOR_LANES / self.rollout.batch_lanes) if keep is None else keep

    def equal_except_length(self, other: Config) -> bool:
        """Whether all settings but those of the run's length are equal: both runs produce the same chunks."""
        mine, theirs = (dataclasses.replace(c, total_steps=1, stop_return=None) for c in (self, other))
        return mine == theirs

    def to_json(self) -> str:
        """Serialise to JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    @staticmethod
    def from_json(text: str | bytes) -> Config:
        """The configuration that `to_json` wrote.

        Raises:
            ValueError: not JSON, an unknown field, a wrong type, or an invalid value.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"expected a configuration in JSON, got unreadable text: {error}") from None
        value = _build(Config, data, "configuration")
        assert isinstance(value, Config)
        return value


def _build(kind: type, data: object, where: str) -> object:
    """Build the dataclass `kind` from JSON values; a field that is absent has its default."""
    if not isinstance(data, dict):
        raise ValueError(f"expected an object at {where}, got {type(data).__name__}")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise ValueError(f"expected fields of {kind.__name__} at {where}, got also {unknown}")
    return kind(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in data.items()})


def _value(hint: Any, value: Any, where: str) -> object:
    """Check a JSON value against the type `hint` of its field and convert it."""
    if isinstance(value, str):  # an actor's log and terminal show it
        fits, shown = value.isprintable() and len(value) <= _TEXT_CHARACTERS, repr(value[:_TEXT_CHARACTERS])
        _require(fits, f"printable text at {where} of at most {_TEXT_CHARACTERS} characters", shown)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if typing.get_origin(hint) is Literal:
        valid = any(type(value) is type(choice) and value == choice for choice in typing.get_args(hint))
        _require(valid, f"one of {typing.get_args(hint)} at {where}", value)
        return value
    if isinstance(hint, types.UnionType):  # an optional value
        return None if value is None else _value(typing.get_args(hint)[0], value, where)
    _require(
        type(value) is not int or abs(value) < 2**63, f"an integer of 64 bits at {where}", "a larger one"
    )
    accepted = (int, float) if hint is float else hint
    if not isinstance(value, accepted) or isinstance(value, bool) != (hint is bool):
        raise ValueError(f"expected {hint.__name__} at {where}, got {value!r}")
    return hint(value)
