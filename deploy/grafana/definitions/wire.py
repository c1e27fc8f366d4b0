"""Dashboard: the accounting of every step and the traffic that carries it."""

from __future__ import annotations

from deploy.grafana.definitions.shared import TOP_ROW, rate_of, single
from deploy.grafana.model import Dashboard, Panel, Query, Row

DASHBOARD = Dashboard(
    "outrider-wire",
    "Outrider: wire and accounting",
    "The accounting of every step, traffic and refused peers.",
    (
        TOP_ROW,
        Row(
            "Step accounting",
            (
                Panel(
                    "Steps per second",
                    "Every produced step is later trained on or dropped; the next panel shows the reasons.",
                    (
                        Query(rate_of("outrider_learner_steps_produced_total"), "produced"),
                        Query(rate_of("outrider_learner_steps_trained_total"), "trained"),
                        Query(rate_of("outrider_learner_steps_dropped_total"), "dropped"),
                    ),
                    minimum=0,
                ),
                Panel(
                    "Dropped steps by reason",
                    "Steps dropped in ten minutes. Every run drops warmup steps; surplus steps indicate a"
                    " slow actor.",
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
                    "Steps in flight",
                    "Steps that are announced, received or in training. The number rises and falls with"
                    " each batch.",
                    single("outrider_learner_steps_in_flight"),
                    minimum=0,
                ),
                Panel(
                    "Wasted steps",
                    "Share of the steps of ten minutes that were dropped, without those of the warm-up"
                    " and of the end of a run or process.",
                    single("job:outrider_learner_steps_wasted_per_produced:ratio_rate10m"),
                    unit="percentunit",
                    minimum=0,
                    soft_maximum=0.02,
                ),
                Panel(
                    "Duplicate chunks",
                    "Chunks received more than once, after a reconnect, in ten minutes. Each one is"
                    " counted once.",
                    single("increase(outrider_wire_duplicate_chunks_total[10m])"),
                    minimum=0,
                    soft_maximum=1,
                    decimals=0,
                ),
                Panel(
                    "Chunks per second at the actors",
                    "Of actors that Prometheus scrapes. The rates of sent and settled chunks are equal;"
                    " retransmitted is 0 unless a connection failed.",
                    single(rate_of("outrider_actor_chunks_total", "outcome"), "{{outcome}}"),
                    minimum=0,
                ),
            ),
        ),
        Row(
            "Traffic",
            (
                Panel(
                    "Bytes per second",
                    "Bytes received on the data port, and bytes of weights sent.",
                    (
                        Query(rate_of("outrider_wire_received_bytes_total"), "received"),
                        Query(rate_of("outrider_weights_sent_bytes_total"), "weights sent"),
                    ),
                    unit="Bps",
                    minimum=0,
                ),
                Panel(
                    "Bytes per step",
                    "Size of chunk messages after compression.",
                    single(
                        "sum(rate(outrider_wire_chunk_bytes_total[5m]))"
                        " / (sum(rate(outrider_learner_steps_produced_total[5m])) > 0)"
                    ),
                    unit="bytes",
                    minimum=0,
                ),
                Panel(
                    "Messages per second",
                    "Messages read on the data port, by kind.",
                    single(rate_of("outrider_wire_messages_total", "kind"), "{{kind}}"),
                    minimum=0,
                ),
                Panel(
                    "Weights downloads",
                    "Downloads started per second: one per update and actor, or per update and host with"
                    " --procs.",
                    single(rate_of("outrider_weights_pulls_total")),
                    unit="ops",
                    minimum=0,
                ),
                Panel(
                    "Refused messages",
                    "Messages refused in five minutes, by reason. A program that is no actor sends to the"
                    " port, or the versions differ.",
                    single("sum by (reason) (increase(outrider_wire_errors_total[5m]))", "{{reason}}"),
                    minimum=0,
                    soft_maximum=1,
                    decimals=0,
                ),
                Panel(
                    "Send queue full",
                    "Messages not sent in five minutes because the send queue of the peer was full. The"
                    " peer is slow, stopped or gone.",
                    single("increase(outrider_wire_send_queue_full_total[5m])"),
                    minimum=0,
                    soft_maximum=1,
                    decimals=0,
                ),
            ),
        ),
        Row(
            "Access control",
            (
                Panel(
                    "Refused connections",
                    "Handshakes and messages without an authorised key in five minutes, by reason. It is"
                    " 0 if no keys are in use. The learner's own four attempts at its start count.",
                    single(
                        "sum by (reason) (increase(outrider_auth_refused_total[5m])) or on () vector(0)",
                        "{{reason}}",
                    ),
                    minimum=0,
                    soft_maximum=1,
                    decimals=0,
                ),
                Panel(
                    "Bans and ignored messages",
                    "Peers banned for a time after violations, and messages ignored because their peer"
                    " was banned or over its quota, in five minutes.",
                    (
                        Query("increase(outrider_wire_bans_total[5m])", "bans"),
                        Query("increase(outrider_wire_ignored_messages_total[5m])", "messages"),
                    ),
                    minimum=0,
                    soft_maximum=1,
                    decimals=0,
                ),
                Panel(
                    "Insecure plaintext",
                    "1 if the learner accepts connections from other machines without keys.",
                    single("outrider_insecure_plaintext"),
                    kind="value",
                    red_unless_zero=True,
                    decimals=0,
                ),
            ),
        ),
    ),
)
