"""Strangers and liars at the ports of a learner that goes on."""

from __future__ import annotations

import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from common import messages as m
from common import wire
from common.chunk import Spaces
from common.config import Config, EnvConfig, PPOConfig, RolloutConfig
from common.transport import Client, Context
from learner.admission import Admission
from learner.network import Network
from learner.publisher import Publisher
from tests.artefacts import keep
from tests.bench.intake import Intake
from tests.hostile import LIES, HostilePeer, lie
from tests.integration.processes import ROOT, Command, Run, free_port, wait_until
from tests.integration.serving import Peer

pytestmark = pytest.mark.integration

CONNECTIONS, AT_ONCE = 10_000, 100
STEPS = 4_000
SID = bytes(range(16))
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00"  # of ZMTP 3, to which a mechanism of 20 bytes belongs


@pytest.fixture
def endpoint() -> Iterator[str]:
    """The data port of a network thread in this process."""
    config = Config()
    limit = wire.message_limit_bytes(config.rollout, Spaces((84, 84), 4, 7))
    network = Network(Admission(config, 0, bytes(32)), Publisher(None), limit)
    port = free_port()
    network.start([(f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port + 1}")], lambda arrival: None)
    yield network.endpoints[0]
    network.close()


def handshake() -> bytes:
    """What a DEALER without keys says first."""
    ready = b"\x05READY" + b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
    return (GREETING + b"NULL").ljust(64, b"\0") + b"\x04" + bytes([len(ready)]) + ready


def garbage(rng: random.Random) -> bytes:
    """What a scanner, a broken or a hostile client sends first."""
    match rng.randrange(6):
        case 0:
            return rng.randbytes(rng.randrange(1, 200))
        case 1:
            return b"GET / HTTP/1.1\r\nHost: learner\r\n\r\n"
        case 2:
            return GREETING + rng.randbytes(rng.randrange(60))
        case 3:  # a whole greeting, then a command that is longer than it says
            return (GREETING + b"NULL").ljust(64, b"\0") + b"\x06" + rng.randbytes(8) + rng.randbytes(20)
        case 4:  # a handshake, then a message part of 2**62 bytes that never comes
            return handshake() + b"\x03" + (1 << 62).to_bytes(8, "big") + b"x" * 50
        case _:
            return b""


def descriptors() -> int:
    """How many this process has open."""
    return psutil.Process().num_fds()


def answers(client: Client) -> bool:
    """Whether the learner answers a Hello within 5 s."""
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        client.send(
            wire.encode(
                m.Hello(sid=SID, epoch=-1, host="host", pid=1, software="0", base=0, produced=0, former={})
            )
        )
        parts = client.receive(0.5)
        if parts is not None and isinstance(wire.decode(parts), m.Welcome | m.Ack):
            return True
    return False


def test_ten_thousand_connections_of_garbage_leave_the_learner_as_it_was(endpoint: str) -> None:
    """It answers all the while; descriptors and memory come back."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    rng, process = random.Random(3), psutil.Process()
    with Context() as context:
        client = Client(context, endpoint, 1 << 20)
        assert answers(client)
        before, held_bytes = descriptors(), 0
        for wave in range(CONNECTIONS // AT_ONCE):
            if wave == 10:
                held_bytes = process.memory_info().rss
            strangers = [socket.create_connection((host, int(port)), timeout=10) for _ in range(AT_ONCE)]
            for stranger in strangers:
                stranger.sendall(garbage(rng))
            for stranger in strangers:
                stranger.close()
            if wave % 20 == 0:
                assert answers(client)
        wait_until(lambda: descriptors() <= before, f"{before} descriptors again", 15.0)
        grown = process.memory_info().rss - held_bytes
        assert grown < 20 * 2**20
        assert answers(client)
        client.close()
    keep("garbage-connections", {"connections": CONNECTIONS, "memory_growth_bytes": grown})


VANISHED = """
import socket, struct, sys, time
from common.transport import Context, Server

with Context() as context:
    server = Server(context, 65_536)
    peer = socket.create_connection(("127.0.0.1", int(server.bind("tcp://127.0.0.1:*").rpartition(":")[2])))
    peer.sendall(bytes.fromhex(sys.argv[1]))
    time.sleep(0.3)
    peer.sendall(bytes([0, 1, 120]) * 100)
    time.sleep(0.3)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    time.sleep(2.5)
    print(sum(1 for _ in range(100) for _ in server.receive()))
"""


def test_a_peer_that_resets_its_connection_does_not_end_the_learner() -> None:
    """In a process of its own: what libzmq did at the next heartbeat was to abort."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", VANISHED, handshake().hex()]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 16  # its pipe was full, or this shows nothing


def test_silent_connections_are_closed(endpoint: str) -> None:
    """Who says nothing holds a descriptor of the learner for 5 s, the time of a handshake."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    before = descriptors()
    strangers = [socket.create_connection((host, int(port)), timeout=10) for _ in range(AT_ONCE)]
    try:
        wait_until(lambda: descriptors() == before + 2 * AT_ONCE, "both ends", 5.0)
        wait_until(lambda: descriptors() <= before + AT_ONCE, "the learner's ends closed", 15.0)
    finally:
        for stranger in strangers:
            stranger.close()


@pytest.mark.parametrize(("number", "reason"), list(enumerate(LIES)))
def test_each_lie_reaches_the_learner_and_is_refused_with_its_reason(number: int, reason: str) -> None:
    """By a session that has credit, over a real socket; a lie that dies in the codec would test nothing."""
    config = Config(
        env=EnvConfig(id="CartPole-v1"),
        rollout=RolloutConfig(steps=8, lanes=1, batch_lanes=1),
        ppo=PPOConfig(minibatches=1),
    )
    rng, endpoint = random.Random(number), f"tcp://127.0.0.1:{free_port()}"
    with capture_logs() as logged, Intake(config, endpoint) as learner, Context() as context:
        learner.open()
        peer = Peer(context, endpoint)
        peer.join()
        while not isinstance(ack := peer.hears(m.Welcome | m.Ack), m.Ack) or ack.credit == 0:
            peer.step(0)
        for _ in range(4):  # a damaged chunk is asked for again three times
            peer.say(lie(number, rng, peer.sid, ack.epoch, 0, ack.credit))

        def refused() -> bool:
            peer.step(0)  # a body that cannot be read counts with the next message
            learner.network.ask(lambda: None)
            texts = [row["text"] for row in logged if row["event"] == "message_refused"]
            return any(text.startswith(reason) for text in texts)

        wait_until(refused, reason, 20.0)
        peer.close()
        assert learner.network.ask(learner.network.look).totals.imbalance == 0


def ports(run: Run) -> tuple[str, str]:
    """Data and weights port of a learner."""
    return f"tcp://127.0.0.1:{run.port}", f"tcp://127.0.0.1:{run.port + 1}"


def test_a_hostile_peer_is_banned_and_honest_actors_finish(tmp_path: Path) -> None:
    """Lies, damage and floods beside two actors: the run is complete and every step is accounted for."""
    arguments = ("cartpole", "--total-steps", str(STEPS), "--local-actors", "2")
    run = Run(tmp_path, free_port(), arguments)
    with run.learner() as learner:
        wait_until(lambda: "learner_serving" in learner.err.read_text(), "the sockets")
        with HostilePeer(*ports(run), seed=1) as peer:
            wait_until(lambda: run.metric("outrider_wire_bans_total", learner) >= 1, "a ban")
            assert learner.finish() == 0, learner.err.read_text()[-2000:]
    summary = run.summary()
    assert summary["exit_reason"] == "finished"
    assert int(str(summary["trained_steps"])) >= STEPS
    assert (summary["imbalance_steps"], summary["in_flight_steps"]) == (0, 0)
    assert int(str(summary["produced_steps"])) < 2 * STEPS  # no false claim was booked
    assert peer.told_off >= 1
    assert peer.sent > 100
    assert "Traceback" not in learner.err.read_text()
    keep(
        "hostile-peer",
        {"messages": peer.sent, "bans": peer.told_off, "imbalance_steps": summary["imbalance_steps"]},
    )


@pytest.mark.chaos
def test_honest_actors_keep_their_throughput(tmp_path: Path) -> None:
    """At least 95 % of the steps per second, median of three runs each way, taken in turn."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    messages = 0
    for number in range(3):
        for attacked in (False, True):
            run = Run(tmp_path / f"{number}{attacked}", free_port(), (*GAME, "--seed", str(number)))
            run.directory.mkdir()
            with run.learner() as learner:
                wait_until(lambda: run.steps_reached(learner, 1), "training")  # noqa: B023
                messages += until_done(run, learner, attacked)
            summary = run.summary()
            rates[attacked].append(float(str(summary["steps_per_second"])))
            assert summary["imbalance_steps"] == 0
    usual, attacked_rate = (statistics.median(rates[attacked]) for attacked in (False, True))
    keep(
        "throughput-under-attack",
        {
            "steps_per_second": rates[False],
            "steps_per_second_attacked": rates[True],
            "ratio": attacked_rate / usual,
            "messages": messages,
        },
    )
    assert attacked_rate >= 0.95 * usual, rates


GAME = ("smoke", "--total-steps", "12000", "--local-actors", "2", "--rnd.warmup-steps", "512")


def until_done(run: Run, learner: Command, attacked: bool) -> int:
    """Let a learner finish, under attack or not; returns how many hostile messages were sent."""
    if not attacked:
        assert learner.finish() == 0
        return 0
    with HostilePeer(*ports(run), seed=2) as peer:
        assert learner.finish() == 0, learner.err.read_text()[-2000:]
    return peer.sent
