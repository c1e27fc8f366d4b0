"""Dashboard: the actors, how evenly they collect steps and how they spend their time."""

from __future__ import annotations

from deploy.grafana.definitions.shared import TOP_ROW, rate, single
from deploy.grafana.model import Dashboard, Panel, Query, Row

DASHBOARD = Dashboard(
    "outrider-fleet",
    "Outrider: fleet",
    "Who plays, how evenly, and where do actors spend their time?",
    (
        TOP_ROW,
        Row(
            "Are there enough actors?",
            (
                Panel(
                    "How busy each side was",
                    "Share of the last minute. The longest bar is what holds the run back.",
                    single("sort_desc(outrider_busy_ratio)", "{{side}}"),
                    unit="percentunit",
                    kind="bars",
                    minimum=0,
                    maximum=1,
                ),
                Panel(
                    "Where actors spend their time",
                    "All actors together. Much credit_wait: the learner is slower than they are.",
                    single("job_phase:outrider_fleet_phase_seconds:share1m", "{{phase}}"),
                    unit="percentunit",
                    stacked=True,
                    minimum=0,
                    maximum=1,
                ),
                Panel(
                    "Sessions",
                    "With a place at the learner, and those of them that play at this moment.",
                    (
                        Query("outrider_fleet_actors", "connected"),
                        Query("outrider_fleet_playing", "playing"),
                    ),
                    minimum=0,
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
                    single(f"bottomk(8, {rate('outrider_fleet_slot_steps_total', 'slot')})", "slot {{slot}}"),
                    minimum=0,
                ),
                Panel(
                    "Fastest slots",
                    "Steps per second that arrive from each; the eight with the most.",
                    single(f"topk(8, {rate('outrider_fleet_slot_steps_total', 'slot')})", "slot {{slot}}"),
                    minimum=0,
                ),
                Panel(
                    "Came and gone",
                    "Sessions since the learner started; lost are those that ended without a goodbye.",
                    single("outrider_fleet_sessions_total", "{{event}}"),
                    minimum=0,
                    decimals=0,
                ),
                Panel(
                    "From credit to chunk",
                    "Usual time between the permission to play a chunk and its arrival.",
                    single("outrider_fleet_chunk_seconds"),
                    unit="s",
                    minimum=0,
                ),
                Panel(
                    "Longest silence",
                    "Of any session. At 10 s it is given up.",
                    single("outrider_fleet_heartbeat_age_max_seconds"),
                    unit="s",
                    minimum=0,
                ),
                Panel(
                    "Connections made anew",
                    "By actors that heard nothing for 10 s, in ten minutes.",
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
            "Actors that Prometheus reaches",
            (
                Panel(
                    "Steps per second by exporter",
                    "One exporter per container, or per host with --procs.",
                    single(rate("outrider_actor_env_steps_total", "instance"), "{{instance}}"),
                    minimum=0,
                ),
                Panel(
                    "Memory",
                    "Resident, of the process that exports.",
                    (
                        Query('max(process_resident_memory_bytes{job="actor"})', "most"),
                        Query('quantile(0.5, process_resident_memory_bytes{job="actor"})', "median"),
                    ),
                    unit="bytes",
                    minimum=0,
                ),
                Panel(
                    "Busy",
                    "Share of its time in which the actors of an exporter do not wait for credit.",
                    single(
                        "1 - "
                        + rate('outrider_actor_phase_seconds_total{phase="credit_wait"}', "instance")
                        + " / ("
                        + rate("outrider_actor_phase_seconds_total", "instance")
                        + " > 0)",
                        "{{instance}}",
                    ),
                    unit="percentunit",
                    minimum=0,
                    maximum=1,
                ),
                Panel(
                    "Versions behind",
                    "Between the learner's newest bundle and the oldest that a reachable actor plays with."
                    " One or two come from the moments of looking.",
                    single("max(outrider_learner_policy_version) - min(outrider_actor_weights_version)"),
                    decimals=0,
                ),
                Panel(
                    "Steps kept for a resend",
                    "An actor keeps a chunk until it is trained on or dropped.",
                    single("sum(outrider_actor_unsettled_steps)"),
                    minimum=0,
                ),
                Panel(
                    "Exporters up",
                    "Of those that Prometheus knows; and the actors behind them that have a place.",
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
