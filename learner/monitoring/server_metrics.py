"""Builds the metrics of the server: step accounting, sessions and the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from common.metrics import duration_histogram
from common.protocol.messages import Reason
from learner.monitoring.families import Family, counter, counters, gauge, labelled_counters
from learner.server.ledger import Totals
from learner.server.status import ServerStatus


def accounting_metrics(totals: Totals, restored: Totals) -> Iterator[Family]:
    """Return the families of the step accounting.

    Args:
        totals: the present totals of the run.
        restored: the totals at the start of the process, where counters begin at 0. A counter that begins at
            a restored total would show a rate of millions of steps per second.
    """
    yield counter(
        "learner_steps_produced",
        "Total number of environment steps that actors produced.",
        totals.produced - restored.produced,
    )
    yield counter(
        "learner_steps_trained",
        "Total number of environment steps that were trained on.",
        totals.trained - restored.trained,
    )
    yield counters(
        "learner_steps_dropped",
        "Total number of environment steps that were dropped, by reason.",
        "reason",
        {
            reason: totals.dropped.get(reason, 0) - restored.dropped.get(reason, 0)
            for reason in get_args(Reason)
        },
    )
    yield gauge(
        "learner_steps_in_flight",
        "Number of environment steps that were produced and are neither trained on nor dropped yet.",
        totals.in_flight,
    )
    yield gauge(
        "learner_accounting_imbalance_steps",
        "Steps produced - trained - dropped - in flight; any value other than 0 is a defect.",
        totals.imbalance,
    )


def session_metrics(status: ServerStatus) -> Iterator[Family]:
    """Return the families of the actors' sessions and of the chunks that they send."""
    yield gauge("fleet_actors", "Number of connected sessions; each actor has one.", status.actors)
    yield gauge(
        "fleet_collecting",
        "Number of sessions that hold credit and collect steps for a batch.",
        status.collecting,
    )
    yield duration_histogram(
        "fleet_chunk_seconds",
        "Time between a grant of credit and the arrival of its chunk, about the age of its first step.",
        status.chunk_durations,
    )
    yield slot_steps(status)
    yield gauge(
        "fleet_heartbeat_age_max_seconds",
        "Longest time since the last message of a connected session, in seconds.",
        status.heartbeat_age_max_seconds,
    )
    yield counters("fleet_sessions", "Total number of session events, by event.", "event", status.events)
    yield counters(
        "fleet_phase_seconds",
        "Total time of all actors by phase, in seconds, as they report it.",
        "phase",
        status.actor_phases,
    )
    yield gauge(
        "decoder_chunks",
        "Number of received chunks that the trainer has not taken yet.",
        status.decoder_chunks,
    )
    yield counter(
        "decoder_seconds", "Total time spent on decompressing chunks, in seconds.", status.decoder_seconds
    )


def slot_steps(status: ServerStatus) -> Family:
    """Return the family of the steps of each slot, with the name of the key of its machine."""
    return labelled_counters(
        "fleet_slot_steps",
        "Total number of environment steps received from the present session of each slot; `machine` is the"
        " name of its key.",
        ("slot", "machine"),
        {(str(session.slot), session.machine): session.steps for session in sorted(status.fleet)},
    )


def network_metrics(status: ServerStatus) -> Iterator[Family]:
    """Return the families of messages and bytes on the two ports."""
    yield counters(
        "wire_messages", "Total number of messages read on the data port, by kind.", "kind", status.messages
    )
    yield counters(
        "wire_errors", "Total number of messages refused, by reason.", "reason", status.wire_errors
    )
    yield counters(
        "auth_refused",
        "Total number of handshakes and messages refused because they have no authorised key, by reason. The"
        " learner itself causes four when it starts, to verify its access control. The reason flood counts"
        " the connections that were dropped because they sent much more than was read, and the handshakes"
        " that their addresses were refused afterwards.",
        "reason",
        status.auth_refused,
    )
    yield counters(
        "wire_violations",
        "Total number of violations of the protocol's rules, by the name of the peer's key. The name is empty"
        " without keys.",
        "key",
        status.violations,
    )
    yield counter("wire_bans", "Total number of temporary bans of peers after violations.", status.bans)
    yield counter(
        "wire_ignored_messages",
        "Total number of messages ignored because their peer was banned or over its quota.",
        status.ignored_messages,
    )
    yield counter(
        "wire_received_bytes", "Total number of bytes received on the data port.", status.received_bytes
    )
    yield counter("wire_chunk_bytes", "Total number of bytes of chunk messages.", status.chunk_bytes)
    yield counter(
        "wire_duplicate_chunks",
        "Total number of chunks that were received again; their steps count once.",
        status.duplicates,
    )
    yield counter(
        "wire_send_queue_full",
        "Total number of messages not sent because the peer's send queue was full.",
        status.send_queue_full,
    )
    yield counter("weights_sent_bytes", "Total number of bytes of weights sent.", status.weights_bytes)
    yield counter(
        "weights_pulls", "Total number of downloads of weights that actors started.", status.weights_pulls
    )
