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
    containers: int = 0  # actors of a service of containers, which are killed in turn; 0: two local actors

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
_FREEWAY_STEPS = 1_500_000
_ONE_ACTOR = ("--rollout.lanes", "8")
_FOUR_EPOCHS = (  # the settings of `presets._ppo` with the bonus
    *("--ppo.epochs", "4", "--ppo.clip", "0.1", "--ppo.learning-rate", "2.5e-4", "--ppo.value-coef", "0.5"),
)
_DEEP_SEA = (
    *("--env.id", "tests.support.deep_sea:DeepSea-20-v0", "--ppo.anneal", "--ppo.entropy-coef", "0.01"),
    *("--ppo.normalise-advantages", "--ppo.coef-extrinsic", "5", "--ppo.coef-intrinsic", "50"),
)
_TWINS = ((), ""), (_NO_BONUS, "-no-bonus")


def _title(task: str, options: tuple[str, ...]) -> str:
    return f"{task}, {'its twin without a bonus' if options else 'PPO+RND'}"


ARMS = (
    *(
        Arm(
            name=f"freeway{suffix}",
            title=_title("Freeway", options),
            preset="freeway",
            options=options,
            seeds=(1, 2, 3),
            budget_steps=_FREEWAY_STEPS,
            target=None if options else 30.0,
        )
        for options, suffix in _TWINS
    ),
    Arm(
        name="freeway-containers",
        title="Freeway, PPO+RND through `docker compose`, an actor killed every five minutes",
        preset="freeway",
        options=("--rollout.lanes", "2"),
        seeds=(1,),
        budget_steps=_FREEWAY_STEPS,
        target=30.0,
        containers=4,
    ),
    *(
        Arm(
            name=name,
            title=f"Freeway, pilot: {title}",
            preset="freeway",
            seeds=seeds,
            budget_steps=budget_steps,
            options=options,
        )
        for name, title, seeds, budget_steps, options in (
            (
                "freeway-8-lanes",
                "bonus with weight 1, all samples for the predictor",
                (1,),
                1_000_000,
                (
                    *(
                        *_FOUR_EPOCHS,
                        "--ppo.minibatches",
                        "8",
                        "--ppo.no-anneal",
                        "--ppo.coef-intrinsic",
                        "1",
                    ),
                    *("--rnd.predictor-keep", "1", "--rnd.warmup-steps", "32768"),
                ),
            ),
            (
                "freeway-4-epochs",
                "4 epochs, clip 0.1, learning rate 2.5e-4, value 0.5",
                (1, 2),
                750_000,
                _FOUR_EPOCHS,
            ),
            (
                "freeway-2-epochs",
                "2 epochs, clip 0.1, learning rate 2.5e-4, value 0.5",
                (1,),
                310_000,
                (*_FOUR_EPOCHS, "--ppo.epochs", "2", *_ONE_ACTOR),
            ),
            (
                "freeway-value-0.5",
                "value coefficient 0.5",
                (1,),
                310_000,
                ("--ppo.value-coef", "0.5", *_ONE_ACTOR),
            ),
            (
                "freeway-one-actor",
                "the settings of the preset, one actor of 8 lanes",
                (1,),
                1_000_000,
                _ONE_ACTOR,
            ),
        )
    ),
    *(
        Arm(
            name=f"freeway-lag-{lag}",
            title=f"Freeway, PPO+RND with chunks of up to {lag} versions before",
            preset="freeway",
            options=("--max-lag", str(lag)),
            seeds=(1, 2),
            budget_steps=_FREEWAY_STEPS,
        )
        for lag in (1, 4)
    ),
    Arm(
        name="freeway-float32",
        title="Freeway, PPO+RND in float32",
        preset="freeway",
        precision="float32",
        seeds=(1, 2),
        budget_steps=_FREEWAY_STEPS,
    ),
    Arm(name="pong", title="Pong, PPO", preset="pong", seeds=(1, 2), budget_steps=2_500_000, target=15.0),
    Arm(
        name="breakout",
        title="Breakout, PPO",
        preset="breakout",
        seeds=(1,),
        budget_steps=3_000_000,
        target=100.0,
    ),
    *(
        Arm(
            name=f"{game}{suffix}",
            title=_title(title, options),
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
        for options, suffix in _TWINS
    ),
    *(
        Arm(
            name=f"{name}{suffix}",
            title=_title(title, options),
            preset="mountain-car-sparse",
            options=(*task, *options),
            seeds=(1, 2, 3, 4, 5),
            budget_steps=300_000,
            precision="float32",
            target=None if options else target,
        )
        for name, title, task, target in (
            ("mountain-car-sparse", "MountainCar, reward at the flag alone", (), 0.95),
            ("deep-sea", "DeepSea, N = 20", _DEEP_SEA, 0.9),
        )
        for options, suffix in _TWINS
    ),
    *(
        Arm(
            name=preset,
            title=title,
            preset=preset,
            seeds=seeds,
            budget_steps=budget_steps,
            precision="float32",
            target=target,
        )
        for preset, title, seeds, budget_steps, target in (
            ("cartpole", "CartPole, PPO", (1, 2, 3, 4, 5), 150_000, 475.0),
            ("pendulum", "Pendulum, PPO", (1, 2, 3), 200_000, -250.0),
            ("bipedal-walker", "BipedalWalker, PPO", (1, 2, 3), 2_500_000, 250.0),
        )
    ),
)

ROWS = tuple(Row(arm, seed) for arm in ARMS for seed in arm.seeds)
