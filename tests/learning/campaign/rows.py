"""The rows of the campaign: each is one run of `python -m learner`, with its budget."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Runs that differ in their seed alone."""

    name: str
    title: str
    preset: str
    seeds: tuple[int, ...]
    budget_steps: int  # after which the campaign ends the run; its schedules have the length of the preset
    options: tuple[str, ...] = ()
    precision: str = "bfloat16"
    target: float | None = None  # of the mean evaluation score; None: the result is reported
    standard_errors: int = 0  # by which the score must exceed the target

    def command(self, seed: int) -> tuple[str, ...]:
        """The arguments of `python -m learner`, without those of the machine."""
        return (self.preset, "--seed", str(seed), "--precision", self.precision, *self.options)


@dataclass(frozen=True, slots=True)
class Row:
    """One run."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """The name of its run directory and of its record."""
        return f"{self.arm.name}-{self.seed}"


_NO_BONUS = ("--rnd.no-enabled",)

ARMS = (
    Arm(
        name="freeway",
        title="Freeway, PPO+RND",
        preset="freeway",
        seeds=(1, 2, 3),
        budget_steps=2_000_000,
        target=30.0,
    ),
    Arm(
        name="freeway-no-bonus",
        title="Freeway, its twin without a bonus",
        preset="freeway",
        options=_NO_BONUS,
        seeds=(1, 2, 3),
        budget_steps=2_000_000,
    ),
    Arm(
        name="freeway-8-lanes",
        title="Freeway, pilot: PPO+RND with the usual settings of PPO on 8 lanes",
        preset="freeway",
        options=(
            *("--rollout.lanes", "4", "--rollout.batch-lanes", "8", "--ppo.minibatches", "8"),
            *("--ppo.learning-rate", "2.5e-4", "--ppo.entropy-coef", "0.01", "--ppo.value-coef", "0.5"),
            *("--ppo.gamma-extrinsic", "0.99", "--ppo.normalise-advantages", "--rnd.warmup-steps", "32768"),
        ),
        seeds=(1, 2),
        budget_steps=1_000_000,
    ),
    Arm(name="pong", title="Pong, PPO", preset="pong", seeds=(1, 2), budget_steps=3_000_000, target=15.0),
    Arm(
        name="breakout",
        title="Breakout, PPO",
        preset="pong",
        options=("--env.id", "breakout"),
        seeds=(1,),
        budget_steps=3_000_000,
        target=100.0,
    ),
    *(
        Arm(
            name=f"{game}{suffix}",
            title=f"{title}, {'its twin without a bonus' if options else 'PPO+RND'}",
            preset=game,
            options=options,
            seeds=(1,),
            budget_steps=2_000_000,
            target=None if options else target,
            standard_errors=errors,
        )
        for game, title, target, errors in (
            ("gravitar", "Gravitar", 173.0, 3),  # above random play
            ("venture", "Venture", 0.0, 3),
            ("montezuma", "Montezuma's Revenge", 100.0, 0),  # the first key
        )
        for options, suffix in (((), ""), (_NO_BONUS, "-no-bonus"))
    ),
)

ROWS = tuple(Row(arm, seed) for arm in ARMS for seed in arm.seeds)
