"""What the dashboards show, as values. A panel says in its description how to read it."""

from __future__ import annotations

from deploy.grafana.build import Dashboard, Panel, Query, Row

_RATE = "[$__rate_interval]"


def _rate(metric: str, by: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{_RATE}))" if by else f"sum(rate({metric}{_RATE}))"


def _one(expr: str, legend: str = "") -> tuple[Query, ...]:
    return (Query(expr, legend),)


_TRAINED = "sum(job:outrider_learner_steps_trained:rate1m)"
_LEFT = "(outrider_run_goal_steps - outrider_run_env_steps)"

HELD_BACK = Panel(
    "What holds the run back",
    "The busiest side of the last minute, in words; the bars on the Fleet page show how busy each one was.",
    _one("outrider_held_back == 1", "{{words}}"),
    kind="words",
    width=14,
    height=4,
)
IMBALANCE = Panel(
    "Steps unaccounted for",
    "produced - trained - dropped - in flight. Anything but 0 is a defect of Outrider.",
    _one("outrider_learner_accounting_imbalance_steps"),
    kind="value",
    width=4,
    height=4,
    alarm=True,
    decimals=0,
)
SPEED = Panel(
    "Steps trained per second",
    "Over the last minute. An Atari step is four frames.",
    _one(_TRAINED),
    unit="locale",
    kind="value",
    width=4,
    height=4,
    decimals=0,
)
ACTORS = Panel(
    "Actors",
    "Sessions with a place at the learner, wherever they run.",
    _one("outrider_fleet_actors"),
    kind="value",
    width=2,
    height=4,
    decimals=0,
)
_TOP = Row("", (HELD_BACK, SPEED, ACTORS, IMBALANCE))

TRAINING = Dashboard(
    "outrider-training",
    "Outrider: training",
    "Does it learn, how fast, and what is it waiting for?",
    (
        _TOP,
        Row(
            "",
            (
                Panel(
                    "Run",
                    "Task and seed.",
                    _one("outrider_run_info", "{{env_id}}, seed {{seed}}"),
                    kind="words",
                    width=6,
                    height=3,
                ),
                Panel(
                    "Progress",
                    "Trained steps of those that the run is to have.",
                    _one("outrider_run_env_steps / outrider_run_goal_steps"),
                    unit="percentunit",
                    kind="value",
                    width=3,
                    height=3,
                    decimals=1,
                ),
                Panel(
                    "Time left",
                    "At the speed of the last minute.",
                    _one(
                        f"sum({_LEFT}) / ({_TRAINED} > 0)",
                    ),
                    unit="dtdurations",
                    kind="value",
                    width=3,
                    height=3,
                ),
                Panel(
                    "Games",
                    "Finished and trained on in full.",
                    _one("outrider_run_episodes"),
                    unit="locale",
                    kind="value",
                    width=3,
                    height=3,
                    decimals=0,
                ),
                Panel(
                    "Mean return",
                    "Raw score, mean of the last 100 games.",
                    _one("outrider_episode_return_mean"),
                    kind="value",
                    width=3,
                    height=3,
                ),
                Panel(
                    "Best return",
                    "Raw score of the best game of the run.",
                    _one("outrider_episode_return_max"),
                    kind="value",
                    width=3,
                    height=3,
                ),
                Panel(
                    "Updates",
                    "Of the whole run, those before a restart included.",
                    _one("outrider_run_updates"),
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
                    _one("outrider_episode_length_mean_steps"),
                    width=6,
                    height=9,
                    least=0,
                ),
                Panel(
                    "Steps per second",
                    "By actors, and trained on. They part only during warm-up, or when steps are dropped.",
                    (
                        Query("sum(job:outrider_learner_steps_produced:rate1m)", "produced"),
                        Query(_TRAINED, "trained"),
                    ),
                    width=6,
                    height=9,
                    least=0,
                ),
            ),
        ),
        Row(
            "Is the update sound?",
            (
                Panel(
                    "Losses",
                    "Means over the minibatches of an update. Falling is no aim in itself; a leap is a sign.",
                    _one('outrider_train_loss{kind!="predictor"}', "{{kind}}"),
                ),
                Panel(
                    "Values foretold",
                    "Share of its targets' variance that each value head explains: 1 is all, 0 no better than"
                    " their mean.",
                    _one("outrider_train_explained_variance_ratio", "{{head}}"),
                    unit="percentunit",
                    most=1,
                ),
                Panel(
                    "Entropy",
                    "Of the policy, in nats. Near 0 it has stopped trying things.",
                    _one("outrider_train_entropy_nats"),
                ),
                Panel(
                    "Change per update",
                    "Divergence of the policy within an update, in nats. Beyond 0.05 updates are too large.",
                    _one("outrider_train_approx_kl"),
                ),
                Panel(
                    "Clipped",
                    "Share of the samples outside PPO's clip range.",
                    _one("outrider_train_clip_fraction_ratio"),
                    unit="percentunit",
                    least=0,
                    usual=0.05,
                ),
                Panel(
                    "Gradient norms",
                    "Before clipping.",
                    _one("outrider_train_grad_norm", "{{network}}"),
                    logarithmic=True,
                ),
                Panel(
                    "Learning rate",
                    "Of the policy; it falls in a straight line where the preset anneals.",
                    _one("outrider_train_learning_rate"),
                    unit="sci",
                    least=0,
                ),
                Panel(
                    "Learner against actor",
                    "Most that both differ about the log-probability of a fresh action: rounding, below 1e-4"
                    " in float32, up to 8e-3 between bfloat16 and float32. A leap means that they do not run"
                    " the same policy.",
                    _one("outrider_train_log_prob_canary"),
                    logarithmic=True,
                ),
                Panel(
                    "Failed updates",
                    "Batches that gave NaN or infinity, in ten minutes. They change nothing; three in a row"
                    " end the run.",
                    _one("increase(outrider_learner_failed_updates_total[10m])"),
                    decimals=0,
                    least=0,
                    usual=1,
                ),
            ),
        ),
        Row(
            "How stale is what it learns from? (max_lag above 0)",
            (
                Panel(
                    "From acting to learning policy",
                    "Estimated divergence in nats. 0 at lag 0, up to rounding.",
                    _one("outrider_train_behaviour_kl_nats"),
                    width=6,
                ),
                Panel(
                    "Samples that count",
                    "Share of the batch left by the weights of stale actions; 1 at lag 0.",
                    _one("outrider_train_effective_samples_ratio"),
                    unit="percentunit",
                    least=0,
                    most=1,
                    width=6,
                ),
                Panel(
                    "Weights at their cap",
                    "Share of the actions whose weight was cut; 0 at lag 0.",
                    _one("outrider_train_weight_capped_ratio"),
                    unit="percentunit",
                    least=0,
                    usual=0.05,
                    width=6,
                ),
                Panel(
                    "Stale bonuses",
                    "How far rating stale chunks anew moves their bonus, in deviations; 0 at lag 0.",
                    _one("outrider_rnd_bonus_moved_ratio"),
                    least=0,
                    usual=0.1,
                    width=6,
                ),
            ),
        ),
    ),
)

FLEET = Dashboard(
    "outrider-fleet",
    "Outrider: fleet",
    "Who plays, how evenly, and where do actors spend their time?",
    (
        _TOP,
        Row(
            "Are there enough actors?",
            (
                Panel(
                    "How busy each side was",
                    "Share of the last minute. The longest bar is what holds the run back.",
                    _one("sort_desc(outrider_busy_ratio)", "{{side}}"),
                    unit="percentunit",
                    kind="bars",
                    least=0,
                    most=1,
                ),
                Panel(
                    "Where actors spend their time",
                    "All actors together. Much credit_wait: the learner is slower than they are.",
                    _one("job_phase:outrider_fleet_phase_seconds:share1m", "{{phase}}"),
                    unit="percentunit",
                    stacked=True,
                    least=0,
                    most=1,
                ),
                Panel(
                    "Sessions",
                    "With a place at the learner, and those of them that play at this moment.",
                    (
                        Query("outrider_fleet_actors", "connected"),
                        Query("outrider_fleet_playing", "playing"),
                    ),
                    least=0,
                    decimals=0,
                ),
            ),
        ),
        Row(
            "Do they play evenly, and stay?",
            (
                Panel(
                    "Slowest slots",
                    "Steps per second that arrive from each, remote ones too; the eight with the fewest.",
                    _one(f"bottomk(8, {_rate('outrider_fleet_slot_steps_total', 'slot')})", "slot {{slot}}"),
                    least=0,
                ),
                Panel(
                    "Fastest slots",
                    "Steps per second that arrive from each; the eight with the most.",
                    _one(f"topk(8, {_rate('outrider_fleet_slot_steps_total', 'slot')})", "slot {{slot}}"),
                    least=0,
                ),
                Panel(
                    "Came and gone",
                    "Sessions since the learner started; lost are those that ended without a goodbye.",
                    _one("outrider_fleet_sessions_total", "{{event}}"),
                    least=0,
                    decimals=0,
                ),
                Panel(
                    "From credit to chunk",
                    "Usual time between the permission to play a chunk and its arrival.",
                    _one("outrider_fleet_chunk_seconds"),
                    unit="s",
                    least=0,
                ),
                Panel(
                    "Longest silence",
                    "Of any session. At 10 s it is given up.",
                    _one("outrider_fleet_heartbeat_age_max_seconds"),
                    unit="s",
                    least=0,
                ),
                Panel(
                    "Connections made anew",
                    "By actors that heard nothing for 10 s, in ten minutes.",
                    _one(
                        "sum by (instance) (increase(outrider_actor_reconnects_total[10m]))", "{{instance}}"
                    ),
                    least=0,
                    usual=1,
                    decimals=0,
                ),
            ),
        ),
        Row(
            "Actors that Prometheus reaches",
            (
                Panel(
                    "Steps per second by exporter",
                    "One exporter per container, or per host with --procs.",
                    _one(_rate("outrider_actor_env_steps_total", "instance"), "{{instance}}"),
                    least=0,
                ),
                Panel(
                    "Memory",
                    "Resident, of the process that exports.",
                    (
                        Query('max(process_resident_memory_bytes{job="actor"})', "most"),
                        Query('quantile(0.5, process_resident_memory_bytes{job="actor"})', "median"),
                    ),
                    unit="bytes",
                    least=0,
                ),
                Panel(
                    "Busy",
                    "Share of its time in which the actors of an exporter do not wait for credit.",
                    _one(
                        "1 - "
                        + _rate('outrider_actor_phase_seconds_total{phase="credit_wait"}', "instance")
                        + " / ("
                        + _rate("outrider_actor_phase_seconds_total", "instance")
                        + " > 0)",
                        "{{instance}}",
                    ),
                    unit="percentunit",
                    least=0,
                    most=1,
                ),
                Panel(
                    "Versions behind",
                    "Between the learner's newest bundle and the oldest that a reachable actor plays with."
                    " One or two come from the moments of looking.",
                    _one("max(outrider_learner_policy_version) - min(outrider_actor_weights_version)"),
                    decimals=0,
                ),
                Panel(
                    "Steps kept for a resend",
                    "An actor keeps a chunk until it is trained on or dropped.",
                    _one("sum(outrider_actor_unsettled_steps)"),
                    least=0,
                ),
                Panel(
                    "Exporters up",
                    "Of those that Prometheus knows; and the actors behind them that have a place.",
                    (
                        Query('sum(up{job="actor"})', "exporters"),
                        Query("sum(outrider_actor_connected)", "actors"),
                    ),
                    least=0,
                    decimals=0,
                ),
            ),
        ),
    ),
)

LEARNER = Dashboard(
    "outrider-learner",
    "Outrider: learner",
    "What does the learner do with its time, memory and disk?",
    (
        _TOP,
        Row(
            "Time",
            (
                Panel(
                    "Where the learner spends its time",
                    "Much wait: more actors would help. Little wait: a faster device would, or max_lag 1.",
                    _one("job_phase:outrider_learner_phase_seconds:share1m", "{{phase}}"),
                    unit="percentunit",
                    stacked=True,
                    least=0,
                    most=1,
                    width=12,
                    height=8,
                ),
                Panel(
                    "Seconds per update",
                    "By phase, over five minutes.",
                    _one(
                        "sum by (phase) (rate(outrider_learner_phase_seconds_total[5m]))"
                        " / on () group_left () (sum(rate(outrider_learner_updates_total[5m])) > 0)",
                        "{{phase}}",
                    ),
                    unit="s",
                    stacked=True,
                    least=0,
                    width=12,
                    height=8,
                ),
            ),
        ),
        Row(
            "Work that waits, and who does it",
            (
                Panel(
                    "Chunks that wait",
                    "Arrived and not yet taken by the trainer. Credit bounds them.",
                    _one("outrider_inbox_chunks"),
                    least=0,
                    usual=1,
                    decimals=0,
                    width=6,
                ),
                Panel(
                    "Decoding",
                    "Share of one core that decompresses chunks. Near 1 it is the bottleneck.",
                    _one(_rate("outrider_inbox_decode_seconds_total")),
                    unit="percentunit",
                    least=0,
                    width=6,
                ),
                Panel(
                    "Silent threads",
                    "Time since each of the learner's threads last came round. The watchdog ends a process in"
                    " which one stays stuck.",
                    _one("outrider_learner_thread_silence_seconds", "{{thread}}"),
                    unit="s",
                    least=0,
                    usual=1,
                    width=6,
                ),
                Panel(
                    "Lag of trained chunks",
                    "Versions behind, of nearly all chunks of five minutes. 0 in the strict mode.",
                    (
                        Query(
                            "histogram_quantile(0.5, sum by (le)"
                            " (rate(outrider_learner_chunk_lag_versions_bucket[5m])))",
                            "median",
                        ),
                        Query(
                            "histogram_quantile(0.99, sum by (le)"
                            " (rate(outrider_learner_chunk_lag_versions_bucket[5m])))",
                            "99 %",
                        ),
                    ),
                    least=0,
                    usual=1,
                    width=6,
                ),
            ),
        ),
        Row(
            "Checkpoints",
            (
                Panel(
                    "Age of the newest",
                    "What a crash now would cost. One is written a minute at most, between updates.",
                    _one("time() - outrider_checkpoint_last_success_timestamp_seconds"),
                    unit="s",
                    least=0,
                ),
                Panel(
                    "Time spent on them",
                    "Share of the trainer's time; the intervals are chosen so that it stays below 5 %.",
                    _one('rate(outrider_learner_phase_seconds_total{phase="checkpoint"}[5m])'),
                    unit="percentunit",
                    least=0,
                ),
                Panel(
                    "Failures",
                    "Checkpoints that could not be written, in ten minutes. Training goes on.",
                    _one("increase(outrider_checkpoint_failures_total[10m])"),
                    least=0,
                    usual=1,
                    decimals=0,
                ),
            ),
        ),
        Row(
            "Process",
            (
                Panel(
                    "Memory",
                    "Resident, and of tensors on a GPU if there is one.",
                    (
                        Query('process_resident_memory_bytes{job="learner"}', "process"),
                        Query("outrider_device_memory_bytes", "GPU"),
                    ),
                    unit="bytes",
                    least=0,
                ),
                Panel(
                    "Processor",
                    "Cores in use.",
                    _one('rate(process_cpu_seconds_total{job="learner"}[$__rate_interval])'),
                    least=0,
                ),
                Panel(
                    "Open files",
                    "One for each connection, and a few more. It rises with the fleet and falls with it.",
                    _one('process_open_fds{job="learner"}'),
                    least=0,
                    decimals=0,
                ),
                Panel(
                    "Software",
                    "What runs.",
                    _one("outrider_build_info", "{{component}} {{version}}"),
                    kind="words",
                    width=8,
                    height=3,
                ),
                Panel(
                    "Lives",
                    "How often this run's learner was started before.",
                    _one("outrider_learner_epoch"),
                    kind="value",
                    width=8,
                    height=3,
                    decimals=0,
                ),
                Panel(
                    "Up since",
                    "Of the learner's process.",
                    _one('process_start_time_seconds{job="learner"} * 1000'),
                    unit="dateTimeFromNow",
                    kind="value",
                    width=8,
                    height=3,
                ),
            ),
        ),
    ),
)

WIRE = Dashboard(
    "outrider-wire",
    "Outrider: wire and accounting",
    "Does every step arrive, and what does it cost to carry?",
    (
        _TOP,
        Row(
            "Every step is in one place",
            (
                Panel(
                    "Steps per second",
                    "What actors make is trained on or dropped for one of the reasons beside.",
                    (
                        Query(_rate("outrider_learner_steps_produced_total"), "produced"),
                        Query(_rate("outrider_learner_steps_trained_total"), "trained"),
                        Query(_rate("outrider_learner_steps_dropped_total"), "dropped"),
                    ),
                    least=0,
                ),
                Panel(
                    "Dropped, by reason",
                    "Steps in ten minutes. warmup is part of every run; surplus means a slow actor.",
                    _one(
                        "sum by (reason) (increase(outrider_learner_steps_dropped_total[10m])) > 0"
                        " or sum by (reason)"
                        ' (increase(outrider_learner_steps_dropped_total{reason="actor_lost"}[10m]))',
                        "{{reason}}",
                    ),
                    least=0,
                    usual=1,
                    decimals=0,
                ),
                Panel(
                    "In flight",
                    "Steps announced, received or in training. Up and down with each batch, never away.",
                    _one("outrider_learner_steps_in_flight"),
                    least=0,
                ),
                Panel(
                    "Played for nothing",
                    "Share of the steps of ten minutes that were dropped, warm-up and endings apart.",
                    _one("job:outrider_learner_steps_wasted_per_produced:ratio_rate10m"),
                    unit="percentunit",
                    least=0,
                    usual=0.02,
                ),
                Panel(
                    "Chunks that came again",
                    "After a reconnect, in ten minutes. Offsets make them harmless.",
                    _one("increase(outrider_wire_duplicate_chunks_total[10m])"),
                    least=0,
                    usual=1,
                    decimals=0,
                ),
                Panel(
                    "Chunks per second at the actors",
                    "Of actors that Prometheus reaches. Sent and settled are alike; retransmitted is 0 unless"
                    " something was disturbed.",
                    _one(_rate("outrider_actor_chunks_total", "outcome"), "{{outcome}}"),
                    least=0,
                ),
            ),
        ),
        Row(
            "Traffic",
            (
                Panel(
                    "Bytes per second",
                    "To the learner on the data port, and weights from it.",
                    (
                        Query(_rate("outrider_wire_received_bytes_total"), "received"),
                        Query(_rate("outrider_weights_sent_bytes_total"), "weights sent"),
                    ),
                    unit="Bps",
                    least=0,
                ),
                Panel(
                    "Bytes per step",
                    "Of chunks, compressed.",
                    _one(
                        "sum(rate(outrider_wire_chunk_bytes_total[5m]))"
                        " / (sum(rate(outrider_learner_steps_produced_total[5m])) > 0)"
                    ),
                    unit="bytes",
                    least=0,
                ),
                Panel(
                    "Messages per second",
                    "Read on the data port, by kind.",
                    _one(_rate("outrider_wire_messages_total", "kind"), "{{kind}}"),
                    least=0,
                ),
                Panel(
                    "Weights fetched",
                    "Pulls begun per second; one for each update and actor, or host with --procs.",
                    _one(_rate("outrider_weights_pulls_total")),
                    unit="ops",
                    least=0,
                ),
                Panel(
                    "Refused messages",
                    "In five minutes, by reason. A stranger talks to the port, or a version differs.",
                    _one("sum by (reason) (increase(outrider_wire_errors_total[5m]))", "{{reason}}"),
                    least=0,
                    usual=1,
                    decimals=0,
                ),
                Panel(
                    "Replies that found a full pipe",
                    "In five minutes. The peer does not read: slow, stopped or gone.",
                    _one("increase(outrider_wire_would_block_total[5m])"),
                    least=0,
                    usual=1,
                    decimals=0,
                ),
            ),
        ),
        Row(
            "Strangers",
            (
                Panel(
                    "Refused without a key",
                    "Handshakes and messages in five minutes, by reason; 0 where no keys are in use."
                    " The learner's own four tries at its start count.",
                    _one(
                        "sum by (reason) (increase(outrider_auth_refused_total[5m])) or on () vector(0)",
                        "{{reason}}",
                    ),
                    least=0,
                    usual=1,
                    decimals=0,
                ),
                Panel(
                    "Not listened to",
                    "Peers banned for a while after offences, and messages of the banned or beyond a quota,"
                    " in five minutes.",
                    (
                        Query("increase(outrider_wire_bans_total[5m])", "bans"),
                        Query("increase(outrider_wire_unheard_messages_total[5m])", "messages"),
                    ),
                    least=0,
                    usual=1,
                    decimals=0,
                ),
                Panel(
                    "Open to anybody",
                    "1: the learner listens beyond this machine and asks for no keys.",
                    _one("outrider_insecure_plaintext"),
                    kind="value",
                    alarm=True,
                    decimals=0,
                ),
            ),
        ),
    ),
)

EXPLORATION = Dashboard(
    "outrider-exploration",
    "Outrider: exploration",
    "Is there still something new, and does it lead to reward?",
    (
        _TOP,
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
                    _one('outrider_train_loss{kind="predictor"}'),
                    logarithmic=True,
                ),
                Panel(
                    "Scale of the bonus",
                    "What a raw bonus is divided by: the running deviation of its discounted sum.",
                    _one("outrider_rnd_bonus_scale"),
                ),
                Panel(
                    "Gradient of the predictor",
                    "Norm before clipping.",
                    _one('outrider_train_grad_norm{network="predictor"}'),
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
                    _one('outrider_train_loss{kind=~"value_.*"}', "{{kind}}"),
                    logarithmic=True,
                ),
                Panel(
                    "Values foretold",
                    "Share of the targets' variance that each head explains.",
                    _one("outrider_train_explained_variance_ratio", "{{head}}"),
                    unit="percentunit",
                    most=1,
                ),
                Panel(
                    "Entropy",
                    "Of the policy, in nats.",
                    _one("outrider_train_entropy_nats"),
                ),
                Panel(
                    "Steps per game",
                    "Mean of the last 100 games: surviving is the first thing that exploring teaches.",
                    _one("outrider_episode_length_mean_steps"),
                    least=0,
                ),
                Panel(
                    "Observations seen",
                    "Images (or vectors) in the statistics that whiten what RND sees.",
                    _one("outrider_rnd_observations"),
                    least=0,
                ),
                Panel(
                    "Games",
                    "Finished games of the run.",
                    _one("outrider_run_episodes"),
                    least=0,
                    decimals=0,
                ),
            ),
        ),
    ),
)

DASHBOARDS = (TRAINING, FLEET, LEARNER, WIRE, EXPLORATION)
