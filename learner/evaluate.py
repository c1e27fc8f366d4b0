"""`python -m learner.evaluate RUN_DIR`: plays the newest checkpoint and reports raw, unclipped scores.

Actions are sampled, as in training, unless `--greedy` takes the most probable ones. Each lane plays a fixed
number of episodes, because taking the first N to end would favour short ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import arguments, envs, log
from common.files import write_atomically
from common.model.precision import configure_torch
from common.process.lifecycle import EXIT_USAGE, Fatal
from common.rng import RngKey, environment_seeds
from learner.evaluation import video
from learner.evaluation.agent import Agent, load_agent
from learner.runs import unwritable_file

_LANES = 16
_SLOT = 1 << 31  # greater than any slot of a fleet, so that no random stream of training is used again
_REPORT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class FinishedEpisode:
    """The result of one episode."""

    score: float  # undiscounted sum of raw rewards
    steps: int


def play(agent: Agent, episodes: int, seed: int, on_step: Callable[[int], None]) -> list[FinishedEpisode]:
    """Play episodes to their end; return them ordered by lane, then by time.

    Args:
        agent: the agent to evaluate.
        episodes: the number of episodes in all lanes together.
        seed: seed of environments and actions; the same seed gives the same episodes.
        on_step: called after each step of the lanes with the number of finished episodes.
    """
    lanes = min(_LANES, episodes)
    quota = [episodes // lanes + (lane < episodes % lanes) for lane in range(lanes)]
    finished: list[list[FinishedEpisode]] = [[] for _ in range(lanes)]
    generators = RngKey(seed, _SLOT, 0, warmup=False).generators(lanes)
    env = envs.make(agent.config.env, lanes)
    try:
        stack = env.reset(environment_seeds(generators))
        score, steps = np.zeros(lanes), np.zeros(lanes, np.int64)
        while any(len(lane_episodes) < limit for lane_episodes, limit in zip(finished, quota, strict=True)):
            transition = env.step(agent.act(stack, generators))
            stack = transition.stack
            score += transition.reward
            steps += 1
            for lane in np.flatnonzero(transition.terminated | transition.truncated):
                if len(finished[lane]) < quota[lane]:
                    finished[lane].append(FinishedEpisode(float(score[lane]), int(steps[lane])))
                score[lane], steps[lane] = 0.0, 0
            on_step(sum(map(len, finished)))
    finally:
        env.close()
    return [episode for lane_episodes in finished for episode in lane_episodes]


def report(agent: Agent, played: Sequence[FinishedEpisode], seed: int) -> dict[str, object]:
    """Return the fields of evaluation.json."""
    scores, lengths = [episode.score for episode in played], [episode.steps for episode in played]
    return {
        "preset": agent.config.preset,
        "env_id": agent.config.env.id,
        "version": agent.bundle.version,
        "env_steps": agent.env_steps,
        "seed": seed,
        "greedy": agent.greedy,
        "episodes": len(played),
        "score_mean": statistics.fmean(scores),
        "score_std": statistics.pstdev(scores),
        "score_min": min(scores),
        "score_max": max(scores),
        "length_mean": statistics.fmean(lengths),
        "scores": scores,
        "lengths": lengths,
    }


def _table(agent: Agent, played: Sequence[FinishedEpisode]) -> str:
    rows = [
        f"{agent.config.env.id}, {agent.caption}; episodes: {len(played):,}",
        f"{'':6}" + "".join(f"{name:>12}" for name in ("mean", "std", "min", "max")),
    ]
    columns = {"score": [e.score for e in played], "steps": [float(e.steps) for e in played]}
    for name, values in columns.items():
        row = (statistics.fmean(values), statistics.pstdev(values), min(values), max(values))
        rows.append(f"{name:6}" + "".join(f"{value:12,.1f}" for value in row))
    return "\n".join(rows)


class _ProgressReport:
    """Reports the number of finished episodes on standard error every few seconds."""

    def __init__(self, episodes: int) -> None:
        self._episodes, self._reported_at = episodes, time.monotonic()

    def __call__(self, finished: int) -> None:
        if time.monotonic() - self._reported_at >= _REPORT_SECONDS:
            self._reported_at = time.monotonic()
            print(f"evaluate: {finished} of {self._episodes} episodes finished", file=sys.stderr, flush=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.Parser(
        prog="python -m learner.evaluate",
        description="Play episodes with the newest checkpoint of a run. Prints the unclipped scores and "
        "writes them to RUN_DIR/evaluation.json.",
    )
    whole, count = arguments.at_least(0), arguments.at_least(1)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="directory of a run")
    parser.add_argument(
        "--episodes", metavar="N", type=count, default=100, help="number of episodes (default 100)"
    )
    parser.add_argument(
        "--seed", metavar="S", type=whole, default=0, help="seed of environments and actions (default 0)"
    )
    parser.add_argument(
        "--greedy", action="store_true", help="take the most probable action instead of sampling one"
    )
    parser.add_argument(
        "--video",
        metavar="FILE.mp4|FILE.gif",
        type=Path,
        help=f"play {video.EPISODES} more episodes and write a video of the best one, with score and bonus",
    )
    options = parser.parse_args(argv)
    if options.video is not None and options.video.suffix not in video.FORMATS:
        raise Fatal(
            EXIT_USAGE,
            f"expected --video FILE.mp4 or FILE.gif, got {options.video}: end the name in .mp4 or .gif",
        )
    return options


def _write(file: Path, fields: dict[str, object]) -> None:
    try:
        write_atomically(file, (json.dumps(fields, indent=2) + "\n").encode())
    except OSError as error:
        raise unwritable_file(file, error, "make the run directory writable") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate a run; return the exit code."""
    log.configure("evaluate")
    configure_torch(1)

    def command() -> None:
        options = _options(argv)
        agent = load_agent(options.run_dir, options.greedy)
        if options.video is not None:
            video.check(options.video, agent)  # before the episodes, which take long
        played = play(agent, options.episodes, options.seed, _ProgressReport(options.episodes))
        print(_table(agent, played), flush=True)
        _write(options.run_dir / "evaluation.json", report(agent, played, options.seed))
        if options.video is not None:
            episodes = range(1, 1 + video.EPISODES)
            keys = [RngKey(options.seed, _SLOT, episode, warmup=False) for episode in episodes]
            print(video.make(options.video, agent, keys))

    return arguments.exit_code(command, "evaluate")


if __name__ == "__main__":
    sys.exit(main())
