"""Dashboard: the intrinsic reward, its predictor and their effect on the policy."""

from __future__ import annotations

from deploy.grafana.definitions.shared import EXPLAINED_VARIANCE, RETURN, TOP_ROW, single
from deploy.grafana.model import Dashboard, Panel, Query, Row

DASHBOARD = Dashboard(
    "outrider-exploration",
    "Outrider: exploration",
    "The intrinsic reward, its predictor and their effect on the policy.",
    (
        TOP_ROW,
        Row(
            "Intrinsic reward and return",
            (
                Panel(
                    "Intrinsic reward",
                    "Normalised intrinsic reward per step: mean and standard deviation of a batch. It"
                    " decreases as the predictor learns the visited states, and rises when the policy"
                    " reaches new ones.",
                    (
                        Query("outrider_rnd_intrinsic_reward_mean", "mean"),
                        Query("outrider_rnd_intrinsic_reward_std", "standard deviation"),
                    ),
                    logarithmic=True,
                    width=12,
                    height=9,
                ),
                RETURN,
            ),
        ),
        Row(
            "Predictor",
            (
                Panel(
                    "Prediction error",
                    "Loss of the predictor on its training samples.",
                    single('outrider_train_loss{kind="predictor"}'),
                    logarithmic=True,
                ),
                Panel(
                    "Bonus scale",
                    "Running standard deviation of the discounted intrinsic return, by which the raw"
                    " bonus is divided.",
                    single("outrider_rnd_bonus_scale"),
                ),
                Panel(
                    "Predictor gradient norm",
                    "Mean gradient norm of the predictor before clipping.",
                    single('outrider_train_grad_norm{network="predictor"}'),
                    logarithmic=True,
                ),
            ),
        ),
        Row(
            "Policy",
            (
                Panel(
                    "Value losses",
                    "Loss of both value heads. The intrinsic value is hard to predict while the intrinsic"
                    " reward changes quickly.",
                    single('outrider_train_loss{kind=~"value_.*"}', "{{kind}}"),
                    logarithmic=True,
                ),
                EXPLAINED_VARIANCE,
                Panel(
                    "Entropy",
                    "Mean entropy of the policy, in nats.",
                    single("outrider_train_entropy_nats"),
                ),
                Panel(
                    "Episode length",
                    "Mean number of steps of the last 100 episodes. Longer episodes are often the first"
                    " effect of exploration.",
                    single("outrider_episode_length_mean_steps"),
                    minimum=0,
                ),
                Panel(
                    "Rooms found",
                    "Number of rooms that any lane has visited. Only Montezuma's Revenge has them.",
                    single("outrider_run_rooms"),
                    minimum=0,
                ),
                Panel(
                    "Observations",
                    "Number of observations in the statistics that normalise the input of RND.",
                    single("outrider_rnd_observations"),
                    minimum=0,
                ),
                Panel(
                    "Episodes",
                    "Number of finished episodes of the run.",
                    single("outrider_run_episodes"),
                    minimum=0,
                    decimals=0,
                ),
            ),
        ),
    ),
)
