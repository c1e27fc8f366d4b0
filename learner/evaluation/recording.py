"""Plays episodes in one lane and keeps the pictures of the one with the highest score."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common import envs
from common.rng import RngKey, environment_seeds
from learner.evaluation.agent import Agent

MAX_STEPS = 4_500  # five minutes of an Atari game: 18,000 frames
Pixels = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """An episode, or its first `MAX_STEPS` steps."""

    pictures: list[bytes]  # [n] compressed, each `shape` uint8
    shape: tuple[int, ...]  # [H, W, 3]
    observation: npt.NDArray[np.generic]  # [n, ...], the newest one at each picture
    score: F64  # [n + 1] so far, before each step and after the last
    ended: bool  # whether the episode ended

    @property
    def steps(self) -> int:
        """The number of steps, n."""
        return len(self.pictures)

    def picture(self, step: int) -> Pixels:
        """Return what the task rendered before a step, uint8 [H, W, 3]."""
        return np.frombuffer(zlib.decompress(self.pictures[step]), np.uint8).reshape(self.shape)


def record_best(agent: Agent, rng_keys: Sequence[RngKey]) -> tuple[int, Recording]:
    """Play one episode per key; return the number, from 1, and the recording of the best one.

    The best one has the highest score; it is the first of equals. `max` keeps no other recording.
    """
    played = ((number, record(agent, rng_key)) for number, rng_key in enumerate(rng_keys, 1))
    return max(played, key=lambda numbered: float(numbered[1].score[-1]))


def record(agent: Agent, rng_key: RngKey) -> Recording:
    """Play one episode in one lane and keep every picture."""
    env, render = envs.make_rendered(agent.config.env)
    generators = rng_key.generators(1)
    pictures: list[bytes] = []
    observation, score, ended = [], [0.0], False
    try:
        stack = env.reset(environment_seeds(generators))
        while not ended and len(pictures) < MAX_STEPS:
            picture = render()
            pictures.append(zlib.compress(picture.tobytes(), 1))
            observation.append(stack[0, -1].copy())
            transition = env.step(agent.act(stack, generators))
            stack = transition.stack
            score.append(score[-1] + float(transition.reward[0]))
            ended = bool(transition.terminated[0] or transition.truncated[0])
    finally:
        env.close()
    return Recording(pictures, picture.shape, np.stack(observation), np.array(score), ended)
