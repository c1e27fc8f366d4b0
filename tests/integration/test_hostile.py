"""Garbage connections and hostile sessions do not stop a learner from serving."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from common.config import Config, EnvConfig, PPOConfig, RolloutConfig
from common.protocol import messages as m
from common.protocol.sockets import Context
from learner.presets import PRESETS
from tests.bench.intake import Intake
from tests.support.hostile_peer import LIES, HostilePeer, Lie
from tests.support.processes import PATIENCE_SECONDS, ROOT, Command, Run, free_port, wait_until
from tests.support.result_files import keep
from tests.support.serving import Peer

pytestmark = pytest.mark.integration

CONNECTIONS, AT_ONCE = 10_000, 100
STEPS = 4_000
SID = bytes(range(16))
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00"  # of ZMTP 3, to which a mechanism of 20 bytes belongs


@dataclass
class Served:
    """The data port of a network thread in its own process."""

    port: int
    process: psutil.Process

    def descriptors(self) -> int:
        """The number of open descriptors."""
        return self.process.num_fds()

    def connect(self) -> socket.socket:
        """Open a connection without sending anything."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    port = free_port()
    command = Command.start(tmp_path, "network", "tests.support.network_alone", str(port))
    try:
        yield Served(port, psutil.Process(command.pid))
        command.process.terminate()
        assert command.finish() == 0, command.err.read_text()
    finally:
        command.end()


def handshake() -> bytes:
    """The first bytes of a DEALER without keys."""
    ready = b"\x05READY" + b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
    return (GREETING + b"NULL").ljust(64, b"\0") + b"\x04" + bytes([len(ready)]) + ready


def garbage(rng: random.Random) -> bytes:
    """The first bytes of a scanner, a broken or a hostile client."""
    match rng.randrange(6):
        case 0:
            return rng.randbytes(rng.randrange(1, 200))
        case 1:
            return b"GET / HTTP/1.1\r\nHost: learner\r\n\r\n"
        case 2:
            return GREETING + rng.randbytes(rng.randrange(60))
        case 3:  # a whole greeting, then a command that is longer than its size
            return (GREETING + b"NULL").ljust(64, b"\0") + b"\x06" + rng.randbytes(8) + rng.randbytes(20)
        case 4:  # a handshake, then a message part of 2**62 bytes that never comes
            return handshake() + b"\x03" + (1 << 62).to_bytes(8, "big") + b"x" * 50
        case _:
            return b""


@contextlib.contextmanager
def joined(served: Served) -> Iterator[Peer]:
    """A peer with a session of the learner."""
    with Context() as context, contextlib.closing(Peer(context, f"tcp://127.0.0.1:{served.port}")) as peer:
        peer.join()
        yield peer


def test_ten_thousand_garbage_connections_leave_no_descriptor_and_little_memory(served: Served) -> None:
    """The learner answers throughout; descriptors and memory return to what they were."""
    rng = random.Random(3)
    with joined(served) as peer:
        before, held_bytes = served.descriptors(), 0
        for wave in range(CONNECTIONS // AT_ONCE):
            if wave == 10:
                held_bytes = served.process.memory_info().rss
            strangers = [served.connect() for _ in range(AT_ONCE)]
            for stranger in strangers:
                with contextlib.suppress(ConnectionError):  # refused before every byte is sent
                    stranger.sendall(garbage(rng))
            for stranger in strangers:
                stranger.close()
            if wave % 20 == 0:
                peer.rejoin()
        wait_until(lambda: served.descriptors() <= before, f"{before} descriptors again")
        grown = served.process.memory_info().rss - held_bytes
        assert grown < 20 * 2**20
        peer.rejoin()
    keep("garbage-connections", {"connections": CONNECTIONS, "memory_growth_bytes": grown})


VANISHED = """
import socket, struct, sys, time
from common.protocol.sockets import Context, RouterSocket

with Context() as context:
    server = RouterSocket(context, 65_536)
    peer = socket.create_connection(("127.0.0.1", int(server.bind("tcp://127.0.0.1:*").rpartition(":")[2])))
    peer.sendall(bytes.fromhex(sys.argv[1]))
    received = b""
    while b"ROUTER" not in received:  # until the handshake is over
        received += peer.recv(4096)
    peer.sendall(bytes([0, 1, 120]) * 100)
    assert server.raw.poll(60_000)  # libzmq has read the block
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    time.sleep(2.5)
    print(sum(1 for _ in range(100) for _ in server.receive()))
"""


def test_a_peer_that_resets_its_connection_does_not_end_the_learner() -> None:
    """In its own process, because libzmq aborted it at the next heartbeat."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", VANISHED, handshake().hex()]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 16  # only a full pipe triggers the defect


def test_silent_connections_are_closed(served: Served) -> None:
    """A connection without a handshake holds a descriptor of the learner for 5 s, the handshake's timeout."""
    with joined(served):
        before = served.descriptors()
        with contextlib.ExitStack() as stack:
            strangers = [stack.enter_context(served.connect()) for _ in range(AT_ONCE)]
            for stranger in strangers:
                while stranger.recv(64):  # the learner's greeting, and then the end of the connection
                    pass
            wait_until(lambda: served.descriptors() <= before, "the end of the learner's side")


@pytest.mark.parametrize("lie", LIES, ids=[lie.message.__name__ for lie in LIES])
def test_each_false_claim_reaches_the_learner_and_is_refused_with_its_reason(lie: Lie) -> None:
    """A session with credit sends it; the codec must not refuse it before the session's checks do."""
    config = Config(
        env=EnvConfig(id="CartPole-v1"),
        rollout=RolloutConfig(steps=8, lanes=1, batch_lanes=1),
        ppo=PPOConfig(minibatches=1),
    )
    rng, endpoint = random.Random(3), f"tcp://127.0.0.1:{free_port()}"
    with capture_logs() as logged, Intake(config, endpoint) as learner, Context() as context:
        learner.open()
        peer = Peer(context, endpoint)
        peer.join()
        while not isinstance(ack := peer.receive_kind(m.Welcome | m.Ack), m.Ack) or ack.credit == 0:
            peer.step(0)
        for _ in range(4):  # a damaged chunk is requested again three times
            peer.send(lie.message(rng, peer.sid, ack.generation, 0, ack.credit))

        def refused() -> bool:
            peer.step(0)  # an unreadable body counts at the next message
            learner.server.session_count()  # waits for a loop of the network thread
            texts = [row["text"] for row in logged if row["event"] == "message_refused"]
            return any(text.startswith(lie.reason) for text in texts)

        wait_until(refused, lie.reason)
        peer.close()
        assert learner.server.refresh_status().totals.imbalance == 0


def ports(run: Run) -> tuple[str, str]:
    """The data and the weights endpoint of a learner."""
    return f"tcp://127.0.0.1:{run.port}", f"tcp://127.0.0.1:{run.port + 1}"


def test_a_hostile_peer_is_banned_and_honest_actors_train_on(tmp_path: Path) -> None:
    """Training continues beside false claims, damage and floods, and every step is accounted for."""
    steps = tmp_path / "steps"
    steps.mkdir()
    arguments = ("cartpole", "--env.id", "tests.support.counted:Counted-v0", "--local-actors", "2")
    run = Run(tmp_path, free_port(), (*arguments, "--total-steps", "1000000000"))
    run.environment["STEP_COUNT_DIR"] = str(steps)
    with run.learner() as learner:
        wait_until(lambda: "learner_serving" in learner.err.read_text(), "the sockets")
        with HostilePeer(*ports(run), seed=1) as peer:
            wait_until(lambda: run.metric("outrider_wire_bans_total", learner) >= 1, "a ban")
            wait_until(lambda: run.steps_reached(learner, STEPS), f"{STEPS} steps")
            learner.process.terminate()
            assert learner.finish() == 0, learner.err.read_text()[-2000:]
    summary = run.summary()
    assert summary["exit_reason"] == "stopped"
    assert int(str(summary["trained_steps"])) >= STEPS
    assert (summary["imbalance_steps"], summary["in_flight_steps"]) == (0, 0)
    # Credit limits the claims in the ledger: each session has credit for one chunk, and for another one
    # whenever a chunk proves unreadable, because its place in the batch is granted again.
    claimed = int(str(summary["produced_steps"])) - run.counted_steps()
    assert 0 <= claimed <= (peer.bans + 1 + peer.chunks) * PRESETS["cartpole"].rollout.chunk_steps
    assert peer.bans >= 1
    assert peer.sent > 100
    assert "Traceback" not in learner.err.read_text()
    keep(
        "hostile-peer",
        {"messages": peer.sent, "bans": peer.bans, "imbalance_steps": summary["imbalance_steps"]},
    )


@pytest.mark.chaos
def test_honest_actors_keep_their_throughput(tmp_path: Path) -> None:
    """They keep 95 % of the steps per second, in the median of three alternating pairs of runs."""
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
    """Wait for the end of a learner, under attack or not; returns the number of hostile messages."""
    if not attacked:
        assert learner.finish() == 0
        return 0
    with HostilePeer(*ports(run), seed=2) as peer:
        assert learner.finish() == 0, learner.err.read_text()[-2000:]
    return peer.sent
