"""Dashboard: the intrinsic reward, its predictor and their effect on the policy."""

from __future__ import annotations

from deploy.grafana.definitions.shared import TOP_ROW, single
from deploy.grafana.model import Dashboard, Panel, Query, Row

DASHBOARD = Dashboard(
    "outrider-exploration",
    "Outrider: exploration",
    "Is there still something new, and does it lead to reward?",
    (
        TOP_ROW,
        Row(
            "The bonus",
            (
                Panel(
                    "Intrinsic reward",
                    "Scaled bonus per step, mean and deviation over a batch. It falls as the known grows, and"
                    " leaps where something new is found.",
                    (
                        Query("outrider_rnd_intrinsic_reward_mean", "mean"),
                        Query("outrider_rnd_intrinsic_reward_std", "deviation"),
                    ),
                    logarithmic=True,
                    width=12,
                    height=9,
                ),
                Panel(
                    "Return",
                    "What exploring is for.",
                    (
                        Query("outrider_episode_return_mean", "mean of 100"),
                        Query("outrider_episode_return_max", "best"),
                    ),
                    width=12,
                    height=9,
                ),
            ),
        ),
        Row(
            "The predictor",
            (
                Panel(
                    "Prediction error",
                    "Of the predictor on what it is trained on.",
                    single('outrider_train_loss{kind="predictor"}'),
                    logarithmic=True,
                ),
                Panel(
                    "Scale of the bonus",
                    "What a raw bonus is divided by: the running deviation of its discounted sum.",
                    single("outrider_rnd_bonus_scale"),
                ),
                Panel(
                    "Gradient of the predictor",
                    "Norm before clipping.",
                    single('outrider_train_grad_norm{network="predictor"}'),
                    logarithmic=True,
                ),
            ),
        ),
        Row(
            "What the policy makes of it",
            (
                Panel(
                    "Value losses",
                    "Of both streams. Intrinsic values are hard to foretell where the bonus moves quickly.",
                    single('outrider_train_loss{kind=~"value_.*"}', "{{kind}}"),
                    logarithmic=True,
                ),
                Panel(
                    "Values foretold",
                    "Share of the targets' variance that each head explains.",
                    single("outrider_train_explained_variance_ratio", "{{head}}"),
                    unit="percentunit",
                    maximum=1,
                ),
                Panel(
                    "Entropy",
                    "Of the policy, in nats.",
                    single("outrider_train_entropy_nats"),
                ),
                Panel(
                    "Steps per game",
                    "Mean of the last 100 games: surviving is the first thing that exploring teaches.",
                    single("outrider_episode_length_mean_steps"),
                    minimum=0,
                ),
                Panel(
                    "Observations seen",
                    "Images (or vectors) in the statistics that whiten what RND sees.",
                    single("outrider_rnd_observations"),
                    minimum=0,
                ),
                Panel(
                    "Games",
                    "Finished games of the run.",
                    single("outrider_run_episodes"),
                    minimum=0,
                    decimals=0,
                ),
            ),
        ),
    ),
)
