"""Dashboard: the accounting of every step, traffic and refused peers."""

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
                    "Steps produced, trained on and dropped. Every produced step is later trained on or"
                    " dropped; the next panel shows the reasons.",
                    (
                        Query(rate_of("outrider_learner_steps_produced_total"), "produced"),
                        Query(rate_of("outrider_learner_steps_trained_total"), "trained"),
                        Query(rate_of("outrider_learner_steps_dropped_total"), "dropped"),
                    ),
                    minimum=0,
                ),
                Panel(
                    "Dropped steps by reason",
                    "Number of steps dropped in ten minutes. Every run drops warmup steps; surplus steps"
                    " indicate a slow actor.",
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
                    "Number of steps that actors have produced and that are neither trained on nor dropped."
                    " It rises and falls with each batch.",
                    single("outrider_learner_steps_in_flight"),
                    minimum=0,
                ),
                Panel(
                    "Wasted steps",
                    "Share of the steps of ten minutes that were dropped, not counting those of the warm-up"
                    " and of the end of a run or process.",
                    single("run:outrider_learner_steps_wasted_per_produced:ratio_rate10m"),
                    unit="percentunit",
                    minimum=0,
                    soft_maximum=0.02,
                    alert="OutriderStepsWasted",
                ),
                Panel(
                    "Duplicate chunks",
                    "Number of chunks that were received again after a reconnect, in ten minutes. Their"
                    " steps count once.",
                    single("increase(outrider_wire_duplicate_chunks_total[10m])"),
                    minimum=0,
                    soft_maximum=1,
                    decimals=0,
                ),
                Panel(
                    "Chunks per second at the actors",
                    "Chunks of the actors that Prometheus scrapes, by outcome. As many are settled as are"
                    " sent; retransmitted is 0 unless a connection failed.",
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
                    "Size of the compressed chunk messages per environment step.",
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
                    "Downloads of weights that actors start per second: one per update and actor, or per"
                    " update and host with --procs.",
                    single(rate_of("outrider_weights_pulls_total")),
                    unit="ops",
                    minimum=0,
                ),
                Panel(
                    "Refused messages",
                    "Number of messages refused in five minutes, by reason. A program that is not an actor"
                    " sends to the port, or the versions differ.",
                    single("sum by (reason) (increase(outrider_wire_errors_total[5m]))", "{{reason}}"),
                    minimum=0,
                    soft_maximum=1,
                    decimals=0,
                ),
                Panel(
                    "Send queue full",
                    "Number of messages not sent in five minutes because the send queue of the peer was"
                    " full. The peer is slow, stopped or disconnected.",
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
                    "Number of handshakes and messages without an authorised key in five minutes, by"
                    " reason; 0 if no keys are in use. The learner itself causes four when it starts, to"
                    " verify its access control.",
                    single(
                        "sum by (reason) (increase(outrider_auth_refused_total[5m])) or on () vector(0)",
                        "{{reason}}",
                    ),
                    minimum=0,
                    soft_maximum=1,
                    decimals=0,
                ),
                Panel(
                    "Violations, bans and ignored messages",
                    "Number of violations by the name of the peer's key, of temporary bans of peers after"
                    " violations, and of messages ignored because their peer was banned or over its quota,"
                    " in five minutes.",
                    (
                        Query("increase(outrider_wire_violations_total[5m])", "violations of {{key}}"),
                        Query("increase(outrider_wire_bans_total[5m])", "bans"),
                        Query("increase(outrider_wire_ignored_messages_total[5m])", "messages"),
                    ),
                    minimum=0,
                    soft_maximum=1,
                    decimals=0,
                ),
                Panel(
                    "Insecure plaintext",
                    "1 if the learner accepts connections from other machines without keys, else 0.",
                    single("outrider_insecure_plaintext"),
                    kind="value",
                    red_unless_zero=True,
                    decimals=0,
                ),
            ),
        ),
    ),
)
