"""Dashboard: the actors, how evenly they collect steps and how they spend their time."""

from __future__ import annotations

from deploy.grafana.definitions.shared import TOP_ROW, bands, quantiles, rate_of, single
from deploy.grafana.model import Dashboard, Panel, Query, Row

_SLOT_RATE = rate_of("outrider_fleet_slot_steps_total", "slot")

DASHBOARD = Dashboard(
    "outrider-fleet",
    "Outrider: fleet",
    "The number of actors, their balance and their time.",
    (
        TOP_ROW,
        Row(
            "Number of actors",
            (
                Panel(
                    "Bottleneck shares",
                    "Share of the last minute that each cause accounts for. The cause with the longest bar"
                    " is the bottleneck.",
                    single("sort_desc(outrider_bottleneck_share_ratio)", "{{cause}}"),
                    unit="percentunit",
                    kind="bars",
                    minimum=0,
                    maximum=1,
                ),
                Panel(
                    "Actor time by phase",
                    "Share of the time of all actors, by phase. A large share of credit_wait means that the"
                    " learner is slower than the actors.",
                    single("run_phase:outrider_fleet_phase_seconds:share1m", "{{phase}}"),
                    unit="percentunit",
                    stacked=True,
                    minimum=0,
                    maximum=1,
                ),
                Panel(
                    "Sessions",
                    "Number of connected sessions, and of those that hold credit and collect steps.",
                    (
                        Query("outrider_fleet_actors", "connected"),
                        Query("outrider_fleet_collecting", "collecting"),
                    ),
                    minimum=0,
                    decimals=0,
                ),
            ),
        ),
        Row(
            "Balance and connections",
            (
                Panel(
                    "Slots",
                    "Steps per second received from each of the first 256 slots, on all machines: the slowest"
                    " and the fastest slot, the median, and the band that eight of ten slots are in.",
                    (
                        Query(f"max({_SLOT_RATE})", "fastest"),
                        Query(f"quantile(0.9, {_SLOT_RATE})", "90th percentile"),
                        Query(f"quantile(0.5, {_SLOT_RATE})", "median"),
                        Query(f"quantile(0.1, {_SLOT_RATE})", "10th percentile"),
                        Query(f"min({_SLOT_RATE})", "slowest"),
                    ),
                    minimum=0,
                    width=16,
                ),
                Panel(
                    "Steps per second by machine",
                    "Steps per second received from the first 256 slots, by the name of their machine's key."
                    " Give each machine a key of its own to tell them apart.",
                    single(rate_of("outrider_fleet_slot_steps_total", "machine"), "{{machine}}"),
                    minimum=0,
                ),
                Panel(
                    "Session events",
                    "Number of events of sessions since the learner started. A lost session ended without a"
                    " leave message.",
                    single("outrider_fleet_sessions_total", "{{event}}"),
                    minimum=0,
                    decimals=0,
                ),
                Panel(
                    "Credit to chunk",
                    "Time between a grant of credit and the arrival of its chunk, about the age of its first"
                    " step: median and 99th percentile of five minutes.",
                    quantiles("outrider_fleet_chunk_seconds"),
                    unit="s",
                    minimum=0,
                ),
                Panel(
                    "Lost sessions",
                    "Share of the fleet whose sessions ended without a leave message, in ten minutes.",
                    single(
                        'sum(increase(outrider_fleet_sessions_total{event="lost"}[10m]))'
                        " / (sum(max_over_time(outrider_fleet_actors[10m])) > 0)"
                    ),
                    unit="percentunit",
                    minimum=0,
                    soft_maximum=0.1,
                    alert="OutriderActorsLost",
                ),
                Panel(
                    "Heartbeat age",
                    "Longest time since the last message of a connected session. After 10 s without a"
                    " message a session is lost.",
                    single("outrider_fleet_heartbeat_age_max_seconds"),
                    unit="s",
                    minimum=0,
                ),
                Panel(
                    "Reconnects",
                    "Number of connections that the actors of all exporters opened again after 10 s without a"
                    " message from the learner, in ten minutes.",
                    single("sum(increase(outrider_actor_reconnects_total[10m]))"),
                    minimum=0,
                    soft_maximum=1,
                    decimals=0,
                ),
            ),
        ),
        Row(
            "Actors that Prometheus scrapes, of every run",
            (
                Panel(
                    "Steps per second by exporter",
                    "Steps that the actors of an exporter collect: fastest, median and slowest exporter."
                    " There is one exporter per container, or per host with --procs.",
                    bands(rate_of("outrider_actor_env_steps_total", "instance")),
                    minimum=0,
                ),
                Panel(
                    "Memory",
                    "Memory in use as a share of the limit of the container, or of the machine without one:"
                    " highest, median and lowest exporter.",
                    bands(
                        'outrider_memory_used_bytes{job="actor"} / outrider_memory_limit_bytes{job="actor"}'
                    ),
                    unit="percentunit",
                    minimum=0,
                    maximum=1,
                    alert="OutriderMemoryNearlyFull",
                ),
                Panel(
                    "Busy share",
                    "Share of the time in which the actors of an exporter do not wait for credit: highest,"
                    " median and lowest exporter.",
                    bands(
                        "(1 - "
                        + rate_of('outrider_actor_phase_seconds_total{phase="credit_wait"}', "instance")
                        + " / ("
                        + rate_of("outrider_actor_phase_seconds_total", "instance")
                        + " > 0))"
                    ),
                    unit="percentunit",
                    minimum=0,
                    maximum=1,
                ),
                Panel(
                    "Weights version",
                    "Oldest and newest of the weights versions that the exporters use. An actor that no"
                    " longer follows keeps its version while the others rise.",
                    (
                        Query("max(outrider_actor_weights_version)", "newest"),
                        Query("min(outrider_actor_weights_version)", "oldest"),
                    ),
                    decimals=0,
                ),
                Panel(
                    "Weights fetch",
                    "Time to fetch weights from the learner: median and 99th percentile of five minutes.",
                    quantiles("outrider_actor_weights_fetch_seconds"),
                    unit="s",
                    minimum=0,
                ),
                Panel(
                    "Unsettled steps",
                    "Number of steps that actors keep until the learner reports that they are trained on or"
                    " dropped.",
                    single("sum(outrider_actor_unsettled_steps)"),
                    minimum=0,
                ),
                Panel(
                    "Exporters up",
                    "Number of exporters that Prometheus scrapes, and of their connected actors.",
                    (
                        Query('sum(up{job="actor"})', "exporters"),
                        Query("sum(outrider_actor_connected)", "actors"),
                    ),
                    minimum=0,
                    decimals=0,
                ),
            ),
        ),
    ),
)
