"""Dashboard: the actors, how evenly they collect steps and how they spend their time."""

from __future__ import annotations

from deploy.grafana.definitions.shared import TOP_ROW, rate_of, single
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
                    "Slowest slots",
                    "Steps per second received from each slot, on all machines: the eight slots with the"
                    " lowest rate.",
                    single(f"bottomk(8, {_SLOT_RATE})", "slot {{slot}}"),
                    minimum=0,
                ),
                Panel(
                    "Fastest slots",
                    "Steps per second received from each slot, on all machines: the eight slots with the"
                    " highest rate.",
                    single(f"topk(8, {_SLOT_RATE})", "slot {{slot}}"),
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
                    "Median time between a grant of credit and the arrival of its chunk.",
                    single("outrider_fleet_chunk_seconds"),
                    unit="s",
                    minimum=0,
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
                    "Number of connections that actors opened again after 10 s without a message from the"
                    " learner, in ten minutes.",
                    single(
                        "sum by (instance) (increase(outrider_actor_reconnects_total[10m]))", "{{instance}}"
                    ),
                    minimum=0,
                    soft_maximum=1,
                    decimals=0,
                ),
            ),
        ),
        Row(
            "Actors that Prometheus scrapes",
            (
                Panel(
                    "Steps per second by exporter",
                    "Steps that actors collect, by exporter. There is one exporter per container, or per"
                    " host with --procs.",
                    single(rate_of("outrider_actor_env_steps_total", "instance"), "{{instance}}"),
                    minimum=0,
                ),
                Panel(
                    "Memory",
                    "Resident memory of the exporters: the maximum and the median.",
                    (
                        Query('max(process_resident_memory_bytes{job="actor"})', "maximum"),
                        Query('quantile(0.5, process_resident_memory_bytes{job="actor"})', "median"),
                    ),
                    unit="bytes",
                    minimum=0,
                ),
                Panel(
                    "Busy share",
                    "Share of the time in which the actors of an exporter do not wait for credit.",
                    single(
                        "1 - "
                        + rate_of('outrider_actor_phase_seconds_total{phase="credit_wait"}', "instance")
                        + " / ("
                        + rate_of("outrider_actor_phase_seconds_total", "instance")
                        + " > 0)",
                        "{{instance}}",
                    ),
                    unit="percentunit",
                    minimum=0,
                    maximum=1,
                ),
                Panel(
                    "Oldest weights",
                    "Number of versions between the learner's newest weights and the oldest weights of an"
                    " actor that Prometheus scrapes. Values of one or two come from different scrape"
                    " times.",
                    single("max(outrider_learner_policy_version) - min(outrider_actor_weights_version)"),
                    decimals=0,
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
