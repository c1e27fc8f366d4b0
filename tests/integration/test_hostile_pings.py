"""PINGs behind unread messages do not abort a learner, and it drops connections that flood it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import zmq

from common.keys.curve import ActorKeys
from common.process.lifecycle import EXIT_TEMPORARY
from common.protocol.sockets import Context, DealerSocket, weights_endpoint
from tests.support import raw_peer
from tests.support.processes import Run, free_port, wait_until
from tests.support.result_files import keep
from tests.support.serving import MakePeer, Served

pytestmark = pytest.mark.integration

PINGS = 500
QUEUED_MESSAGES = 16  # which filled the receive queue of a connection when it had a limit
FLOOD_BYTES = 2**29  # 512 times what the weights port lets a connection have unread
STEPS = 4_000
ATTACKER = "127.0.0.2"
WHOLE, UNENDING = raw_peer.message(b"x" * 200), b"\x01\xc8" + b"x" * 200  # a message, and a part of one


def attack_with_pings(port: int) -> None:
    """Fill a receive queue, send PINGs and more messages behind it, and reset the connection."""
    messages = raw_peer.message(b"x") * QUEUED_MESSAGES
    for attempt in range(PINGS):
        connection = raw_peer.connect(port, address=ATTACKER)
        connection.sendall((messages + raw_peer.PING) * (1 + attempt % 3))
        time.sleep(0.0005 * (attempt % 4))  # some before the learner has read them, some after
        raw_peer.reset(connection)


def flood(port: int) -> int:
    """Flood a port in three ways, each until its connection is closed; return the bytes sent."""
    sent_bytes = 0
    for part in (WHOLE, UNENDING):
        connection = raw_peer.connect(port, address=ATTACKER)
        sent_bytes += raw_peer.send_until_closed(connection, part * 300, FLOOD_BYTES)
    with raw_peer.connect(port, b"same", ATTACKER):  # libzmq does not hand over what a second one sends
        connection = raw_peer.connect(port, b"same", ATTACKER)
        sent_bytes += raw_peer.send_until_closed(connection, WHOLE * 300, FLOOD_BYTES)
    return sent_bytes


def test_pings_and_floods_do_not_end_a_run_and_honest_actors_train_on(tmp_path: Path) -> None:
    arguments = ("cartpole", "--local-actors", "2", "--total-steps", "1000000000")
    run = Run(tmp_path, free_port(), arguments)
    with run.learner() as learner:
        wait_until(lambda: "learner_serving" in learner.err.read_text(), "the sockets")
        for port in (run.port, run.port + 1):
            attack_with_pings(port)
        sent_bytes = flood(run.port + 1)
        reached = run.metric("outrider_run_env_steps", learner)
        wait_until(lambda: run.steps_reached(learner, int(reached) + STEPS), f"{STEPS} further steps")
        dropped = run.metric('outrider_auth_refused_total{reason="flood"}', learner)
        learner.process.terminate()
        assert learner.finish() == EXIT_TEMPORARY, learner.err.read_text()[-2000:]
    rows = [row for row in learner.err.read_text().splitlines() if "connection_dropped" in row]
    assert dropped == len(rows) >= 3
    assert all(ATTACKER in row for row in rows)  # and no honest actor
    summary = run.summary()
    assert (summary["exit_reason"], summary["imbalance_steps"]) == ("stopped", 0)
    keep("pings-and-floods", {"pings": 2 * PINGS, "flood_bytes": sent_bytes, "imbalance_steps": 0})


def flood_with_keys(context: Context, endpoint: str, keys: ActorKeys, served: Served) -> None:
    """Send messages of one byte with keys until the learner has dropped the connection."""
    source = endpoint.replace("//", f"//{ATTACKER}:0;")
    client = DealerSocket(context, source, 2**20, keys)

    def dropped() -> bool:
        if client.raw.poll(100, zmq.POLLOUT):
            for _ in range(1_000):
                client.send([b"x"])
        return served.server.refresh_status().auth_refused["flood"] >= 1

    wait_until(dropped, "the end of a connection", between=lambda: None)
    client.close()


@pytest.mark.parametrize("of", ["data", "weights"])
def test_the_address_of_a_flood_is_refused_and_other_addresses_are_served(
    served: Served, make_peer: MakePeer, of: str
) -> None:
    honest, hostile = served.keys_of("honest"), served.keys_of("hostile")
    served.start()
    peer = make_peer(served.endpoint, honest)
    peer.join()
    with Context() as context:
        endpoint = served.endpoint if of == "data" else weights_endpoint(served.endpoint)
        flood_with_keys(context, endpoint, hostile, served)
        refused = served.server.refresh_status().auth_refused["flood"]
        later = DealerSocket(context, served.endpoint.replace("//", f"//{ATTACKER}:0;"), 2**20, hostile)
        wait_until(lambda: served.server.refresh_status().auth_refused["flood"] > refused, "a refusal")
        later.close()
    peer.rejoin()
    second = make_peer(served.endpoint, honest)
    second.join()
    assert served.server.session_count() == 2
