"""Dashboard: the accounting of every step and the traffic that carries it."""

from __future__ import annotations

from deploy.grafana.definitions.shared import TOP_ROW, rate, single
from deploy.grafana.model import Dashboard, Panel, Query, Row

DASHBOARD = Dashboard(
    "outrider-wire",
    "Outrider: wire and accounting",
    "Does every step arrive, and what does it cost to carry?",
    (
        TOP_ROW,
        Row(
            "Every step is in one place",
            (
                Panel(
                    "Steps per second",
                    "What actors make is trained on or dropped for one of the reasons beside.",
                    (
                        Query(rate("outrider_learner_steps_produced_total"), "produced"),
                        Query(rate("outrider_learner_steps_trained_total"), "trained"),
                        Query(rate("outrider_learner_steps_dropped_total"), "dropped"),
                    ),
                    minimum=0,
                ),
                Panel(
                    "Dropped, by reason",
                    "Steps in ten minutes. warmup is part of every run; surplus means a slow actor.",
                    single(
                        "sum by (reason) (increase(outrider_learner_steps_dropped_total[10m])) > 0"
                        " or sum by (reason)"
                        ' (increase(outrider_learner_steps_dropped_total{reason="actor_lost"}[10m]))',
                        "{{reason}}",
                    ),
                    minimum=0,
                    soft_maximum=1,
                    decimals=0,
                ),
                Panel(
                    "In flight",
                    "Steps announced, received or in training. Up and down with each batch, never away.",
                    single("outrider_learner_steps_in_flight"),
                    minimum=0,
                ),
                Panel(
                    "Played for nothing",
                    "Share of the steps of ten minutes that were dropped, warm-up and endings apart.",
                    single("job:outrider_learner_steps_wasted_per_produced:ratio_rate10m"),
                    unit="percentunit",
                    minimum=0,
                    soft_maximum=0.02,
                ),
                Panel(
                    "Chunks that came again",
                    "After a reconnect, in ten minutes. Offsets make them harmless.",
                    single("increase(outrider_wire_duplicate_chunks_total[10m])"),
                    minimum=0,
                    soft_maximum=1,
                    decimals=0,
                ),
                Panel(
                    "Chunks per second at the actors",
                    "Of actors that Prometheus reaches. Sent and settled are alike; retransmitted is 0 unless"
                    " something was disturbed.",
                    single(rate("outrider_actor_chunks_total", "outcome"), "{{outcome}}"),
                    minimum=0,
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
                        Query(rate("outrider_wire_received_bytes_total"), "received"),
                        Query(rate("outrider_weights_sent_bytes_total"), "weights sent"),
                    ),
                    unit="Bps",
                    minimum=0,
                ),
                Panel(
                    "Bytes per step",
                    "Of chunks, compressed.",
                    single(
                        "sum(rate(outrider_wire_chunk_bytes_total[5m]))"
                        " / (sum(rate(outrider_learner_steps_produced_total[5m])) > 0)"
                    ),
                    unit="bytes",
                    minimum=0,
                ),
                Panel(
                    "Messages per second",
                    "Read on the data port, by kind.",
                    single(rate("outrider_wire_messages_total", "kind"), "{{kind}}"),
                    minimum=0,
                ),
                Panel(
                    "Weights fetched",
                    "Pulls begun per second; one for each update and actor, or host with --procs.",
                    single(rate("outrider_weights_pulls_total")),
                    unit="ops",
                    minimum=0,
                ),
                Panel(
                    "Refused messages",
                    "In five minutes, by reason. A stranger talks to the port, or a version differs.",
                    single("sum by (reason) (increase(outrider_wire_errors_total[5m]))", "{{reason}}"),
                    minimum=0,
                    soft_maximum=1,
                    decimals=0,
                ),
                Panel(
                    "Replies that found a full pipe",
                    "In five minutes. The peer does not read: slow, stopped or gone.",
                    single("increase(outrider_wire_would_block_total[5m])"),
                    minimum=0,
                    soft_maximum=1,
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
                    single(
                        "sum by (reason) (increase(outrider_auth_refused_total[5m])) or on () vector(0)",
                        "{{reason}}",
                    ),
                    minimum=0,
                    soft_maximum=1,
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
                    minimum=0,
                    soft_maximum=1,
                    decimals=0,
                ),
                Panel(
                    "Open to anybody",
                    "1: the learner listens beyond this machine and asks for no keys.",
                    single("outrider_insecure_plaintext"),
                    kind="value",
                    red_unless_zero=True,
                    decimals=0,
                ),
            ),
        ),
    ),
)
