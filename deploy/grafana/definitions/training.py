"""Dashboard: learning progress, the quality of updates and the effect of stale data."""

from __future__ import annotations

from deploy.grafana.definitions.shared import TOP_ROW, TRAINED_RATE, single
from deploy.grafana.model import Dashboard, Panel, Query, Row

_LEFT = "(outrider_run_goal_steps - outrider_run_env_steps)"

DASHBOARD = Dashboard(
    "outrider-training",
    "Outrider: training",
    "Does it learn, how fast, and what is it waiting for?",
    (
        TOP_ROW,
        Row(
            "",
            (
                Panel(
                    "Run",
                    "Task and seed.",
                    single("outrider_run_info", "{{env_id}}, seed {{seed}}"),
                    kind="label",
                    width=6,
                    height=3,
                ),
                Panel(
                    "Progress",
                    "Trained steps of those that the run is to have.",
                    single("outrider_run_env_steps / outrider_run_goal_steps"),
                    unit="percentunit",
                    kind="value",
                    width=3,
                    height=3,
                    decimals=1,
                ),
                Panel(
                    "Time left",
                    "At the speed of the last minute.",
                    single(
                        f"sum({_LEFT}) / ({TRAINED_RATE} > 0)",
                    ),
                    unit="dtdurations",
                    kind="value",
                    width=3,
                    height=3,
                ),
                Panel(
                    "Games",
                    "Finished and trained on in full.",
                    single("outrider_run_episodes"),
                    unit="locale",
                    kind="value",
                    width=3,
                    height=3,
                    decimals=0,
                ),
                Panel(
                    "Mean return",
                    "Raw score, mean of the last 100 games.",
                    single("outrider_episode_return_mean"),
                    kind="value",
                    width=3,
                    height=3,
                ),
                Panel(
                    "Best return",
                    "Raw score of the best game of the run.",
                    single("outrider_episode_return_max"),
                    kind="value",
                    width=3,
                    height=3,
                ),
                Panel(
                    "Updates",
                    "Of the whole run, those before a restart included.",
                    single("outrider_run_updates"),
                    unit="locale",
                    kind="value",
                    width=3,
                    height=3,
                    decimals=0,
                ),
            ),
        ),
        Row(
            "Is it getting better?",
            (
                Panel(
                    "Return",
                    "Raw, unclipped scores: the mean of the last 100 games, and the best so far.",
                    (
                        Query("outrider_episode_return_mean", "mean of 100"),
                        Query("outrider_episode_return_max", "best"),
                    ),
                    width=12,
                    height=9,
                ),
                Panel(
                    "Steps per game",
                    "Mean of the last 100 games. Longer is better where dying ends a game.",
                    single("outrider_episode_length_mean_steps"),
                    width=6,
                    height=9,
                    minimum=0,
                ),
                Panel(
                    "Steps per second",
                    "By actors, and trained on. They part only during warm-up, or when steps are dropped.",
                    (
                        Query("sum(job:outrider_learner_steps_produced:rate1m)", "produced"),
                        Query(TRAINED_RATE, "trained"),
                    ),
                    width=6,
                    height=9,
                    minimum=0,
                ),
            ),
        ),
        Row(
            "Is the update sound?",
            (
                Panel(
                    "Losses",
                    "Means over the minibatches of an update. Falling is no aim in itself; a leap is a sign.",
                    single('outrider_train_loss{kind!="predictor"}', "{{kind}}"),
                ),
                Panel(
                    "Values foretold",
                    "Share of its targets' variance that each value head explains: 1 is all, 0 no better than"
                    " their mean.",
                    single("outrider_train_explained_variance_ratio", "{{head}}"),
                    unit="percentunit",
                    maximum=1,
                ),
                Panel(
                    "Entropy",
                    "Of the policy, in nats. Near 0 it has stopped trying things.",
                    single("outrider_train_entropy_nats"),
                ),
                Panel(
                    "Change per update",
                    "Divergence of the policy within an update, in nats. Beyond 0.05 updates are too large.",
                    single("outrider_train_approx_kl"),
                ),
                Panel(
                    "Clipped",
                    "Share of the samples outside PPO's clip range.",
                    single("outrider_train_clip_fraction_ratio"),
                    unit="percentunit",
                    minimum=0,
                    soft_maximum=0.05,
                ),
                Panel(
                    "Gradient norms",
                    "Before clipping.",
                    single("outrider_train_grad_norm", "{{network}}"),
                    logarithmic=True,
                ),
                Panel(
                    "Learning rate",
                    "Of the policy; it falls in a straight line where the preset anneals.",
                    single("outrider_train_learning_rate"),
                    unit="sci",
                    minimum=0,
                ),
                Panel(
                    "Learner against actor",
                    "Most that both differ about the log-probability of a fresh action: rounding, below 1e-4"
                    " in float32, up to 8e-3 between bfloat16 and float32. A leap means that they do not run"
                    " the same policy.",
                    single("outrider_train_log_prob_canary"),
                    logarithmic=True,
                ),
                Panel(
                    "Failed updates",
                    "Batches that gave NaN or infinity, in ten minutes. They change nothing; three in a row"
                    " end the run.",
                    single("increase(outrider_learner_failed_updates_total[10m])"),
                    decimals=0,
                    minimum=0,
                    soft_maximum=1,
                ),
            ),
        ),
        Row(
            "How stale is what it learns from? (max_lag above 0)",
            (
                Panel(
                    "From acting to learning policy",
                    "Estimated divergence in nats. 0 at lag 0, up to rounding.",
                    single("outrider_train_behaviour_kl_nats"),
                    width=6,
                ),
                Panel(
                    "Samples that count",
                    "Share of the batch left by the weights of stale actions; 1 at lag 0.",
                    single("outrider_train_effective_samples_ratio"),
                    unit="percentunit",
                    minimum=0,
                    maximum=1,
                    width=6,
                ),
                Panel(
                    "Weights at their cap",
                    "Share of the actions whose weight was cut; 0 at lag 0.",
                    single("outrider_train_weight_capped_ratio"),
                    unit="percentunit",
                    minimum=0,
                    soft_maximum=0.05,
                    width=6,
                ),
                Panel(
                    "Stale bonuses",
                    "How far rating stale chunks anew moves their bonus, in deviations; 0 at lag 0.",
                    single("outrider_rnd_bonus_moved_ratio"),
                    minimum=0,
                    soft_maximum=0.1,
                    width=6,
                ),
            ),
        ),
    ),
)
