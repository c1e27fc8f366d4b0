"""The configuration of the benchmarks `learner`, `train` and `lag`. Its values never change.

It uses no preset and no default, so that figures remain comparable with earlier ones: Breakout, 32 lanes x
128 steps, 4 epochs, and a quarter of the samples for the predictor. The precision `auto` is resolved on each
machine, and the results name it.
"""

from __future__ import annotations

from common.config import Config, EnvConfig, NetworkConfig, PPOConfig, RNDConfig, RolloutConfig
from learner.runs import settings

JOB = Config(
    preset="benchmark",
    seed=1,
    total_steps=10_000_000,
    stop_return=None,
    precision="auto",
    max_lag=0,
    env=EnvConfig(
        id="breakout",
        sticky=0.25,
        max_frames=18_000,
        frame_skip=4,
        noop_max=0,
        fire_on_reset=False,
        full_actions=False,
        life_loss_is_end=False,
        reward="sign",
        time_limit_is_end=False,
    ),
    rollout=RolloutConfig(steps=128, lanes=16, batch_lanes=32),
    ppo=PPOConfig(
        epochs=4,
        minibatches=4,
        clip=0.1,
        learning_rate=1e-4,
        anneal=False,
        adam_eps=1e-5,
        max_grad_norm=0.5,
        entropy_coef=0.001,
        value_coef=1.0,
        gamma_extrinsic=0.999,
        gamma_intrinsic=0.99,
        gae_lambda=0.95,
        coef_extrinsic=2.0,
        coef_intrinsic=1.0,
        normalise_advantages=False,
        correct_lag=True,
        shuffle=True,
    ),
    rnd=RNDConfig(enabled=True, warmup_steps=204_800, learning_rate=None, predictor_keep=0.25),
    network=NetworkConfig(conv3_kernel=3, leaky_slope=0.2, hidden=64),
)


def flags(config: Config) -> list[str]:
    """Every setting as an option of `python -m learner`, so that no preset has an effect."""
    options: list[str] = []
    for name, value in settings(config).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            section, _, option = flag.rpartition(".")
            options.append(f"--{section}.{option}" if value else f"--{section}.no-{option}")
        else:
            options += [f"--{flag}", str(value)]
    return options
