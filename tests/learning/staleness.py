"""The cost of stale data, and the effect of its correction: CartPole under a forced lag.

    python -m tests.learning.staleness --seeds 10

Every chunk is collected with the bundle of exactly L versions before. It prints a Markdown table: the mean
and the spread over seeds of the mean return of the last 100 training episodes.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import statistics
from dataclasses import dataclass
from typing import Any

import torch

from common import envs
from common.config import EnvConfig
from common.spaces import Spaces
from learner.presets import PRESETS
from tests.support.probe_envs import Loop

LAGS = (0, 1, 2, 4, 8)
STEPS = 60_000
_LANES = 8


class _Task:
    """A task of the product with the interface of a probe environment."""

    def __init__(self, config: EnvConfig) -> None:
        self.spaces: Spaces = envs.spaces(config)
        self._env = envs.make(config, _LANES)
        self.reset, self.step, self.close = self._env.reset, self._env.step, self._env.close


@dataclass(frozen=True)
class Trial:
    """One training run."""

    lag: int
    corrected: bool
    seed: int

    def score(self) -> float:
        """Train; returns the mean return of the last 100 episodes."""
        torch.set_num_threads(1)
        preset = PRESETS["cartpole"]
        config = dataclasses.replace(
            preset,
            seed=self.seed,
            total_steps=STEPS,
            max_lag=self.lag,
            rollout=dataclasses.replace(preset.rollout, lanes=_LANES, batch_lanes=_LANES),
            ppo=dataclasses.replace(preset.ppo, correct_lag=self.corrected),
        )
        task: Any = _Task(config.env)
        loop = Loop(task, config, lag=self.lag).run()
        score = loop.trainer.episodes.mean
        assert score is not None
        return score


def main() -> None:
    """Run every trial, two at a time, and print the table."""
    parser = argparse.ArgumentParser(description="CartPole under a forced lag.")
    parser.add_argument("--seeds", type=int, default=10)
    seeds = range(1, parser.parse_args().seeds + 1)
    arms = [(lag, corrected) for lag in LAGS for corrected in ((True, False) if lag else (True,))]
    trials = [Trial(lag, corrected, seed) for lag, corrected in arms for seed in seeds]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        scores = dict(zip(trials, pool.map(Trial.score, trials, chunksize=1), strict=True))
    print("| lag | corrected | mean | least | most | scores by seed |\n|---|---|---|---|---|---|")
    for lag, corrected in arms:
        values = [scores[Trial(lag, corrected, seed)] for seed in seeds]
        row = " ".join(f"{score:.0f}" for score in values)
        name = "not needed" if not lag else "yes" if corrected else "no"
        print(
            f"| {lag} | {name} | {statistics.fmean(values):.0f} | {min(values):.0f} | {max(values):.0f} |"
            f" {row} |"
        )


if __name__ == "__main__":
    main()
