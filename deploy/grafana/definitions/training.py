"""Dashboard: learning progress, the quality of updates and the effect of stale data."""

from __future__ import annotations

from deploy.grafana.definitions.shared import EXPLAINED_VARIANCE, RETURN, TOP_ROW, TRAINED_RATE, single
from deploy.grafana.model import Dashboard, Panel, Query, Row

_REMAINING_STEPS = "(outrider_run_target_steps - outrider_run_env_steps)"

DASHBOARD = Dashboard(
    "outrider-training",
    "Outrider: training",
    "Learning progress, the quality of the updates and the effect of stale data.",
    (
        TOP_ROW,
        Row(
            "",
            (
                Panel(
                    "Run",
                    "Task and seed of the run.",
                    single("outrider_run_info", "{{env_id}}, seed {{seed}}"),
                    kind="label",
                    width=6,
                    height=3,
                ),
                Panel(
                    "Progress",
                    "Share of the run's steps that have been trained on.",
                    single("outrider_run_env_steps / outrider_run_target_steps"),
                    unit="percentunit",
                    kind="value",
                    width=3,
                    height=3,
                    decimals=1,
                ),
                Panel(
                    "Time left",
                    "Remaining time at the speed of the last minute.",
                    single(f"sum({_REMAINING_STEPS}) / ({TRAINED_RATE} > 0)"),
                    unit="dtdurations",
                    kind="value",
                    width=3,
                    height=3,
                ),
                Panel(
                    "Episodes",
                    "Number of finished episodes of the run.",
                    single("outrider_run_episodes"),
                    unit="locale",
                    kind="value",
                    width=3,
                    height=3,
                    decimals=0,
                ),
                Panel(
                    "Mean return",
                    "Mean unclipped return of the last 100 episodes.",
                    single("outrider_episode_return_mean"),
                    kind="value",
                    width=3,
                    height=3,
                ),
                Panel(
                    "Best return",
                    "Largest unclipped return of an episode of the run.",
                    single("outrider_episode_return_max"),
                    kind="value",
                    width=3,
                    height=3,
                ),
                Panel(
                    "Updates",
                    "Number of updates of the run, including those before a restart.",
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
            "Returns and speed",
            (
                RETURN,
                Panel(
                    "Episode length",
                    "Mean number of steps of the last 100 episodes. In games that end when the player"
                    " dies, longer episodes are better.",
                    single("outrider_episode_length_mean_steps"),
                    width=6,
                    height=9,
                    minimum=0,
                ),
                Panel(
                    "Steps per second",
                    "Steps produced by actors and steps trained on. They differ during the warm-up and"
                    " when steps are dropped.",
                    (
                        Query("sum(run:outrider_learner_steps_produced:rate1m)", "produced"),
                        Query(TRAINED_RATE, "trained"),
                    ),
                    width=6,
                    height=9,
                    minimum=0,
                ),
            ),
        ),
        Row(
            "Runs compared",
            (
                Panel(
                    "Return against steps",
                    "Mean unclipped return of the last 100 episodes against the environment steps of the run."
                    " The variable Run chooses the runs.",
                    (
                        Query("max by (run) (outrider_run_env_steps)", "steps"),
                        Query("max by (run) (outrider_episode_return_mean)", "return"),
                    ),
                    kind="runs",
                    width=24,
                    height=9,
                ),
            ),
        ),
        Row(
            "Updates",
            (
                Panel(
                    "Losses",
                    "Mean losses over the minibatches of an update. The trend of a PPO loss does not"
                    " measure progress, but a sudden jump indicates a problem.",
                    single('outrider_train_loss{kind!="predictor"}', "{{kind}}"),
                ),
                EXPLAINED_VARIANCE,
                Panel(
                    "Entropy",
                    "Mean entropy of the policy, in nats. Near 0 the policy is deterministic and does not"
                    " explore.",
                    single("outrider_train_entropy_nats"),
                ),
                Panel(
                    "Approx. KL",
                    "Approximate KL divergence between the policies before and during an update, in nats."
                    " Values above 0.05 mean that the updates are too large.",
                    single("outrider_train_approx_kl"),
                ),
                Panel(
                    "Clip fraction",
                    "Share of the samples whose probability ratio is outside PPO's clip range.",
                    single("outrider_train_clip_fraction_ratio"),
                    unit="percentunit",
                    minimum=0,
                    soft_maximum=0.05,
                ),
                Panel(
                    "Gradient norms",
                    "Mean gradient norm of each network before clipping.",
                    single("outrider_train_grad_norm", "{{network}}"),
                    logarithmic=True,
                ),
                Panel(
                    "Learning rate",
                    "Learning rate of the policy. It decreases linearly if the preset anneals it.",
                    single("outrider_train_learning_rate"),
                    unit="sci",
                    minimum=0,
                ),
                Panel(
                    "Actor/learner log-prob difference",
                    "Largest difference between the log-probabilities that actor and learner compute for"
                    " an action with the same weights. Rounding explains up to 5e-7 in one precision and 8e-3"
                    " between bfloat16 and float32. A sudden jump means that actor and learner compute"
                    " different policies.",
                    single("outrider_train_actor_learner_log_prob_diff_max"),
                    logarithmic=True,
                    alert="OutriderPoliciesDiffer",
                ),
                Panel(
                    "Failed updates",
                    "Number of updates that were discarded because of NaN or infinity, in ten minutes. They"
                    " change no weights; three in a row end the run.",
                    single("increase(outrider_learner_failed_updates_total[10m])"),
                    alert="OutriderUpdatesFail",
                    decimals=0,
                    minimum=0,
                    soft_maximum=1,
                ),
            ),
        ),
        Row(
            "Staleness (relevant only with max_lag above 0)",
            (
                Panel(
                    "Behaviour KL",
                    "Estimated KL divergence from the policy that collected the batch to the learner's"
                    " policy, in nats. It is 0 at lag 0, except for rounding.",
                    single("outrider_train_behaviour_kl_nats"),
                    width=6,
                ),
                Panel(
                    "Effective sample size",
                    "Effective sample size of the batch after importance weighting, as a share of its"
                    " size. It is 1 at lag 0.",
                    single("outrider_train_effective_samples_ratio"),
                    unit="percentunit",
                    minimum=0,
                    maximum=1,
                    width=6,
                ),
                Panel(
                    "Importance weights at cap",
                    "Share of the actions whose importance weight is at its cap. It is 0 at lag 0.",
                    single("outrider_train_weight_capped_ratio"),
                    unit="percentunit",
                    minimum=0,
                    soft_maximum=0.05,
                    width=6,
                ),
                Panel(
                    "Stale bonus shift",
                    "Mean change of the intrinsic reward of stale chunks when the learner computes it"
                    " with the newest predictor, in standard deviations. It is 0 at lag 0.",
                    single("outrider_rnd_stale_bonus_shift_ratio"),
                    minimum=0,
                    soft_maximum=0.1,
                    width=6,
                ),
            ),
        ),
    ),
)
