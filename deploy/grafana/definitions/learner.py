"""Dashboard: the learner's time, queues, checkpoints and process."""

from __future__ import annotations

from deploy.grafana.definitions.shared import TOP_ROW, rate, single
from deploy.grafana.model import Dashboard, Panel, Query, Row

DASHBOARD = Dashboard(
    "outrider-learner",
    "Outrider: learner",
    "What does the learner do with its time, memory and disk?",
    (
        TOP_ROW,
        Row(
            "Time",
            (
                Panel(
                    "Where the learner spends its time",
                    "Much wait: more actors would help. Little wait: a faster device would, or max_lag 1.",
                    single("job_phase:outrider_learner_phase_seconds:share1m", "{{phase}}"),
                    unit="percentunit",
                    stacked=True,
                    minimum=0,
                    maximum=1,
                    width=12,
                    height=8,
                ),
                Panel(
                    "Seconds per update",
                    "By phase, over five minutes.",
                    single(
                        "sum by (phase) (rate(outrider_learner_phase_seconds_total[5m]))"
                        " / on () group_left () (sum(rate(outrider_learner_updates_total[5m])) > 0)",
                        "{{phase}}",
                    ),
                    unit="s",
                    stacked=True,
                    minimum=0,
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
                    single("outrider_inbox_chunks"),
                    minimum=0,
                    soft_maximum=1,
                    decimals=0,
                    width=6,
                ),
                Panel(
                    "Decoding",
                    "Share of one core that decompresses chunks. Near 1 it is the bottleneck.",
                    single(rate("outrider_inbox_decode_seconds_total")),
                    unit="percentunit",
                    minimum=0,
                    width=6,
                ),
                Panel(
                    "Silent threads",
                    "Time since each of the learner's threads last came round. The watchdog ends a process in"
                    " which one stays stuck.",
                    single("outrider_learner_thread_silence_seconds", "{{thread}}"),
                    unit="s",
                    minimum=0,
                    soft_maximum=1,
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
                    minimum=0,
                    soft_maximum=1,
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
                    single("time() - outrider_checkpoint_last_success_timestamp_seconds"),
                    unit="s",
                    minimum=0,
                ),
                Panel(
                    "Time spent on them",
                    "Share of the trainer's time; the intervals are chosen so that it stays below 5 %.",
                    single('rate(outrider_learner_phase_seconds_total{phase="checkpoint"}[5m])'),
                    unit="percentunit",
                    minimum=0,
                ),
                Panel(
                    "Failures",
                    "Checkpoints that could not be written, in ten minutes. Training goes on.",
                    single("increase(outrider_checkpoint_failures_total[10m])"),
                    minimum=0,
                    soft_maximum=1,
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
                    minimum=0,
                ),
                Panel(
                    "Processor",
                    "Cores in use.",
                    single('rate(process_cpu_seconds_total{job="learner"}[$__rate_interval])'),
                    minimum=0,
                ),
                Panel(
                    "Open files",
                    "One for each connection, and a few more. It rises with the fleet and falls with it.",
                    single('process_open_fds{job="learner"}'),
                    minimum=0,
                    decimals=0,
                ),
                Panel(
                    "Software",
                    "What runs.",
                    single("outrider_build_info", "{{component}} {{version}}"),
                    kind="label",
                    width=8,
                    height=3,
                ),
                Panel(
                    "Lives",
                    "How often this run's learner was started before.",
                    single("outrider_learner_epoch"),
                    kind="value",
                    width=8,
                    height=3,
                    decimals=0,
                ),
                Panel(
                    "Up since",
                    "Of the learner's process.",
                    single('process_start_time_seconds{job="learner"} * 1000'),
                    unit="dateTimeFromNow",
                    kind="value",
                    width=8,
                    height=3,
                ),
            ),
        ),
    ),
)
