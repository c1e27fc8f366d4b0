"""Garbage connections and hostile sessions do not stop a learner from serving."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from common.config import Config, EnvConfig, PPOConfig, RolloutConfig
from common.process.lifecycle import EXIT_TEMPORARY
from common.protocol import messages as m
from common.protocol.sockets import Context
from learner.presets import PRESETS
from tests.bench.intake import Intake
from tests.chaos import attack
from tests.support.hostile_peer import FALSE_CLAIMS, FalseClaim, HostilePeer
from tests.support.processes import PATIENCE_SECONDS, ROOT, Command, Run, free_port, wait_until
from tests.support.raw_peer import GREETING, handshake
from tests.support.result_files import keep
from tests.support.serving import Peer

pytestmark = pytest.mark.integration

CONNECTIONS, CONNECTIONS_AT_ONCE = 10_000, 100
STEPS = 4_000
SID = bytes(range(16))


@dataclass
class LearnerProcess:
    """The data port of a server in its own process."""

    port: int
    process: psutil.Process

    def descriptors(self) -> int:
        """The number of open descriptors."""
        return self.process.num_fds()

    def connect(self) -> socket.socket:
        """Open a connection without sending anything."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS)


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[LearnerProcess]:
    port = free_port()
    command = Command.start(tmp_path, "network", "tests.support.network_alone", str(port))
    try:
        yield LearnerProcess(port, psutil.Process(command.pid))
        command.process.terminate()
        assert command.finish() == 0, command.err.read_text()
    finally:
        command.end()


def garbage(rng: random.Random) -> bytes:
    """The first bytes of a port scanner, a broken client or a hostile client."""
    match rng.randrange(6):
        case 0:
            return rng.randbytes(rng.randrange(1, 200))
        case 1:
            return b"GET / HTTP/1.1\r\nHost: learner\r\n\r\n"
        case 2:
            return GREETING + rng.randbytes(rng.randrange(60))
        case 3:  # a whole greeting, then a command that is longer than its size
            return (GREETING + b"NULL").ljust(64, b"\0") + b"\x06" + rng.randbytes(8) + rng.randbytes(20)
        case 4:  # a handshake, then the beginning of a message part of 2**62 bytes
            return handshake() + b"\x03" + (1 << 62).to_bytes(8, "big") + b"x" * 50
        case _:
            return b""


@contextlib.contextmanager
def joined(learner: LearnerProcess) -> Iterator[Peer]:
    """A peer that has joined the learner."""
    with Context() as context, contextlib.closing(Peer(context, f"tcp://127.0.0.1:{learner.port}")) as peer:
        peer.join()
        yield peer


def test_ten_thousand_garbage_connections_leave_no_descriptor_and_little_memory(
    learner: LearnerProcess,
) -> None:
    """The learner answers throughout; its number of descriptors and its memory return to their values."""
    rng = random.Random(3)
    with joined(learner) as peer:
        before, memory_bytes = learner.descriptors(), 0
        for part in range(CONNECTIONS // CONNECTIONS_AT_ONCE):
            if part == 10:
                memory_bytes = learner.process.memory_info().rss
            clients = [learner.connect() for _ in range(CONNECTIONS_AT_ONCE)]
            for client in clients:
                with contextlib.suppress(ConnectionError):  # refused before every byte is sent
                    client.sendall(garbage(rng))
            for client in clients:
                client.close()
            if part % 20 == 0:
                peer.rejoin()
        wait_until(lambda: learner.descriptors() <= before, f"at most {before} descriptors")
        growth_bytes = learner.process.memory_info().rss - memory_bytes
        assert growth_bytes < 20 * 2**20
        peer.rejoin()
    keep("garbage-connections", {"connections": CONNECTIONS, "memory_growth_bytes": growth_bytes})


CONNECTION_RESET = """
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
    """The test uses its own process, because the defect of libzmq aborts it at the next heartbeat."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", CONNECTION_RESET, handshake().hex()]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 16  # only a full pipe triggers the defect


def test_silent_connections_are_closed(learner: LearnerProcess) -> None:
    """The learner closes a connection without a handshake after 5 s, the timeout of handshakes."""
    with joined(learner):
        before = learner.descriptors()
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(learner.connect()) for _ in range(CONNECTIONS_AT_ONCE)]
            for client in clients:
                while client.recv(64):  # the learner's greeting, and then the end of the connection
                    pass
            wait_until(lambda: learner.descriptors() <= before, "the end of the learner's connections")


@pytest.mark.parametrize("claim", FALSE_CLAIMS, ids=[claim.message.__name__ for claim in FALSE_CLAIMS])
def test_each_false_claim_reaches_the_learner_and_is_refused_with_its_reason(claim: FalseClaim) -> None:
    """A session with credit sends the claim; the session's checks refuse it, not the codec."""
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
        for _ in range(4):  # the learner requests a damaged chunk again three times
            peer.send(claim.message(rng, peer.sid, ack.generation, 0, ack.credit))

        def refused() -> bool:
            peer.step(0)  # a violation by an unreadable body is handled at the next message
            learner.server.session_count()  # waits for a loop of the network thread
            texts = [row["text"] for row in logged if row["event"] == "message_refused"]
            return any(text.startswith(claim.reason) for text in texts)

        wait_until(refused, claim.reason)
        peer.close()
        assert learner.server.refresh_status().totals.imbalance == 0


def ports(run: Run) -> tuple[str, str]:
    """The data and the weights endpoint of a learner."""
    return f"tcp://127.0.0.1:{run.port}", f"tcp://127.0.0.1:{run.port + 1}"


def test_a_hostile_peer_is_banned_and_honest_actors_train_on(tmp_path: Path) -> None:
    """Training continues during false claims, damage and floods, and every step is accounted for."""
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
            assert learner.finish() == EXIT_TEMPORARY, learner.err.read_text()[-2000:]
    summary = run.summary()
    assert summary["exit_reason"] == "stopped"
    assert int(str(summary["trained_steps"])) >= STEPS
    assert (summary["imbalance_steps"], summary["in_flight_steps"]) == (0, 0)
    # Credit limits the claimed steps in the ledger: a session has credit for one chunk, and for another one
    # after each unreadable chunk, whose grant is repeated.
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
    """The rate under attack is at least 95 % of the rate without, over pairs of runs."""
    figures = attack.measure(tmp_path, pairs=6, seconds=60.0)
    keep("throughput-under-attack", figures)
    assert float(str(figures["ratio"])) >= attack.TARGET_RATIO, figures


def test_the_ratio_of_pairs_has_an_interval() -> None:
    """Noise that both runs of a pair share does not widen it; equal ratios have no interval."""
    usual, attacked = [100.0, 50.0, 200.0], [95.0, 47.5, 190.0]
    assert attack.ratio_interval(usual, attacked) == pytest.approx((0.95, 0.95, 0.95))
    ratio, low, high = attack.ratio_interval([100.0, 100.0], [90.0, 100.0])
    assert low < 0.9 < ratio < 1.0 < high
