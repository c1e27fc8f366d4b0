"""Dashboard: the learner's time, queues, checkpoints and process."""

from __future__ import annotations

from deploy.grafana.definitions.shared import TOP_ROW, quantiles, rate_of, single
from deploy.grafana.model import Dashboard, Panel, Query, Row

DASHBOARD = Dashboard(
    "outrider-learner",
    "Outrider: learner",
    "The learner's time, queues, checkpoints and process.",
    (
        TOP_ROW,
        Row(
            "Time",
            (
                Panel(
                    "Learner time by phase",
                    "Share of the trainer's time, by phase. If the share of wait is large, more actors make"
                    " the run faster; if it is small, a faster device or max_lag 1 does.",
                    single("run_phase:outrider_learner_phase_seconds:share1m", "{{phase}}"),
                    unit="percentunit",
                    stacked=True,
                    minimum=0,
                    maximum=1,
                    width=8,
                    height=8,
                ),
                Panel(
                    "Seconds per update",
                    "Time of one update by phase, mean of five minutes.",
                    single(
                        "sum by (phase) (rate(outrider_learner_phase_seconds_total[5m]))"
                        " / on () group_left () (sum(rate(outrider_learner_updates_total[5m])) > 0)",
                        "{{phase}}",
                    ),
                    unit="s",
                    stacked=True,
                    minimum=0,
                    width=8,
                    height=8,
                ),
                Panel(
                    "Update duration",
                    "Time of an update from its last chunk on, without checkpoints: median and 99th"
                    " percentile of five minutes.",
                    quantiles("outrider_learner_update_seconds"),
                    unit="s",
                    minimum=0,
                    width=8,
                    height=8,
                ),
            ),
        ),
        Row(
            "Queues and threads",
            (
                Panel(
                    "Chunks waiting",
                    "Number of chunks that the learner has received and the trainer has not taken. Credit"
                    " bounds it.",
                    single("outrider_decoder_chunks"),
                    minimum=0,
                    soft_maximum=1,
                    decimals=0,
                    width=6,
                ),
                Panel(
                    "Decoding",
                    "Share of one core that decoding chunks takes. Near 1 it is the bottleneck.",
                    single(rate_of("outrider_decoder_seconds_total")),
                    unit="percentunit",
                    minimum=0,
                    width=6,
                ),
                Panel(
                    "Time since last loop",
                    "Time since the last loop of each thread of the learner. The watchdog ends the process"
                    " if a thread hangs.",
                    single("outrider_learner_thread_silence_seconds", "{{thread}}"),
                    unit="s",
                    minimum=0,
                    soft_maximum=1,
                    width=6,
                ),
                Panel(
                    "Policy lag of chunks",
                    "Number of versions between the collection of a chunk and its training: median and"
                    " 99th percentile of five minutes. It is 0 with --max-lag 0.",
                    quantiles("outrider_learner_chunk_lag_versions"),
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
                    "Checkpoint age",
                    "Time since the newest checkpoint. A crash loses the progress since then. The learner"
                    " writes a checkpoint every 5 to 60 seconds, between updates.",
                    single("time() - outrider_checkpoint_last_success_timestamp_seconds"),
                    unit="s",
                    minimum=0,
                    width=6,
                    alert="OutriderCheckpointOld",
                ),
                Panel(
                    "Checkpoint duration",
                    "Time to write a checkpoint: median and 99th percentile of five minutes.",
                    quantiles("outrider_checkpoint_seconds"),
                    unit="s",
                    minimum=0,
                    width=6,
                ),
                Panel(
                    "Checkpoint time",
                    "Share of the trainer's time that checkpoints take. The learner chooses their interval"
                    " so that it is about 5 % or less, unless a write takes more than 3 seconds.",
                    single('rate(outrider_learner_phase_seconds_total{phase="checkpoint"}[5m])'),
                    unit="percentunit",
                    minimum=0,
                    width=6,
                ),
                Panel(
                    "Checkpoint failures",
                    "Number of checkpoints that could not be written, in ten minutes. Training continues.",
                    single("increase(outrider_checkpoint_failures_total[10m])"),
                    width=6,
                    alert="OutriderCheckpointsFail",
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
                    "Memory in use as a share of the limit of the container, or of the machine without one.",
                    single(
                        'outrider_memory_used_bytes{job="learner"}'
                        ' / outrider_memory_limit_bytes{job="learner"}'
                    ),
                    unit="percentunit",
                    minimum=0,
                    maximum=1,
                    width=6,
                    alert="OutriderMemoryNearlyFull",
                ),
                Panel(
                    "Memory of the process",
                    "Resident memory of the process, and GPU memory of PyTorch's tensors if there is a GPU.",
                    (
                        Query('process_resident_memory_bytes{job="learner"}', "process"),
                        Query("outrider_device_memory_bytes", "GPU"),
                    ),
                    unit="bytes",
                    minimum=0,
                    width=6,
                ),
                Panel(
                    "Free disk",
                    "Free share of the disk of the run directory.",
                    single("outrider_run_disk_free_bytes / outrider_run_disk_size_bytes"),
                    unit="percentunit",
                    minimum=0,
                    maximum=1,
                    width=6,
                    alert="OutriderDiskNearlyFull",
                ),
                Panel(
                    "CPU",
                    "Number of cores that the process uses.",
                    single('rate(process_cpu_seconds_total{job="learner"}[$__rate_interval])'),
                    minimum=0,
                    width=6,
                ),
                Panel(
                    "Open files",
                    "Number of open file descriptors: one per connection and a few more.",
                    single('process_open_fds{job="learner"}'),
                    minimum=0,
                    width=6,
                    decimals=0,
                ),
                Panel(
                    "Software",
                    "Components of Outrider and their versions.",
                    single("outrider_build_info", "{{component}} {{version}}"),
                    kind="label",
                    width=6,
                    height=7,
                ),
                Panel(
                    "Generation",
                    "Number of earlier learner processes of the run.",
                    single("outrider_learner_generation"),
                    kind="value",
                    width=6,
                    height=7,
                    decimals=0,
                ),
                Panel(
                    "Uptime",
                    "Time since the start of the learner's process.",
                    single('process_start_time_seconds{job="learner"} * 1000'),
                    unit="dateTimeFromNow",
                    kind="value",
                    width=6,
                    height=7,
                ),
            ),
        ),
    ),
)
