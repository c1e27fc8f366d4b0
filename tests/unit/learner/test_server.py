"""The methods of the server, with its threads and with sockets in a directory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from common.config import Config, EnvConfig, PPOConfig, RolloutConfig
from common.process.lifecycle import Fatal
from common.protocol import codec, messages
from common.protocol.chunk import Chunk
from common.protocol.sockets import BindError, Context, DealerSocket, weights_endpoint
from common.spaces import Spaces
from learner.interface import DecodedChunk
from learner.server.admission import Admission
from learner.server.decoder import ChunkDecoder
from learner.server.rate_limit import VIOLATIONS_PER_BAN
from learner.server.registry import SessionRegistry
from learner.server.server import Server
from tests.support.processes import PATIENCE_SECONDS, free_port
from tests.support.wire_fuzz import hello

T, B, PRODUCED = 8, 1, 5
SPACES = Spaces((4,), 1, 2)
CONFIG = Config(
    env=EnvConfig(id="CartPole-v1"),
    rollout=RolloutConfig(steps=T, lanes=B, batch_lanes=2),
    ppo=PPOConfig(minibatches=1),
)
SID = bytes(range(16))


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(CONFIG, SPACES, 1, None, None)
    yield server
    server.close()


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Callable[[], str]:
    """Start the server; returns its data endpoint."""

    def starting() -> str:
        endpoint = f"ipc://{tmp_path}/data"
        server.start([(endpoint, weights_endpoint(endpoint))])
        return endpoint

    return starting


def earlier_accounting() -> str:
    """The accounting of generation 0, with one remote session that produced steps."""
    admission = Admission(CONFIG, 0, bytes(32))
    admission.on(b"peer", hello(SID), 0.0)
    heartbeat = messages.Heartbeat(sid=SID, generation=0, produced=PRODUCED, stats={})
    admission.on(b"peer", heartbeat, 0.0)
    return admission.registry.to_json(set())


def exchange(
    client: DealerSocket, kind: type[messages.Message], message: messages.Message
) -> messages.Message:
    """Send a message until a reply of a kind arrives."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        client.send(codec.encode(message))
        parts = client.receive(0.2)
        if parts is not None and isinstance(found := codec.decode(parts), kind):
            return found
    raise AssertionError(f"expected {kind.__name__} within {PATIENCE_SECONDS:.0f} s")


def test_the_first_status_holds_the_restored_totals(server: Server, start: Callable[[], str]) -> None:
    """The metrics of a resumed run take their base from it, so that their counters begin at 0."""
    server.restore(earlier_accounting())
    start()
    assert server.status.totals.produced == PRODUCED


def test_a_restored_session_counts_once_it_connects(server: Server, start: Callable[[], str]) -> None:
    server.restore(earlier_accounting())
    endpoint = start()
    assert server.session_count() == 0
    with Context() as context:
        client = DealerSocket(context, endpoint, 1 << 20)
        exchange(client, messages.Welcome, hello(SID, generation=0, produced=PRODUCED))
        assert server.session_count() == 1
        client.close()


def test_a_call_after_close_raises_at_once(tmp_path: Path) -> None:
    server = Server(CONFIG, SPACES, 1, None, None)
    endpoint = f"ipc://{tmp_path}/data"
    server.start([(endpoint, weights_endpoint(endpoint))])
    server.close()
    with pytest.raises(RuntimeError, match="the server is closed"):
        server.settle([], "trained")
    assert server.loop_times().keys() == {"network", "decoder"}


def test_a_chunk_that_proves_unreadable_during_close_is_still_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder ends before the network thread that it calls into; `take` would raise its error."""
    decoding, closing, close = threading.Event(), threading.Event(), ChunkDecoder.close

    def unpack(*rest: object) -> None:
        decoding.set()
        assert closing.wait(PATIENCE_SECONDS)
        raise codec.WireError("array", "expected a body, got none")

    def close_decoder(decoder: ChunkDecoder) -> None:
        closing.set()
        close(decoder)

    monkeypatch.setattr(codec, "unpack", unpack)
    monkeypatch.setattr(ChunkDecoder, "close", close_decoder)
    server = Server(CONFIG, SPACES, 1, None, None)
    endpoint = f"ipc://{tmp_path}/data"
    server.start([(endpoint, weights_endpoint(endpoint))])
    with Context() as context:
        client = DealerSocket(context, endpoint, 1 << 20)
        exchange(client, messages.Welcome, hello(SID))
        server.open_batch(0)
        packed = codec.Packed(0, 0, b"body")
        chunk = packed.message(
            sid=SID, generation=1, version=0, offset=0, steps=T * B, produced=T * B, fresh=True
        )
        client.send(codec.encode(chunk))
        assert decoding.wait(PATIENCE_SECONDS)
        client.close()
    server.close()
    assert server.take(0.0) is None


def test_chunks_to_blame_name_their_session_and_ban_its_connection(
    server: Server, start: Callable[[], str], make_chunk: Callable[..., Chunk]
) -> None:
    """Each counts as a violation; a session that has ended is named alone."""
    endpoint, chunk = start(), make_chunk(T, B, SPACES, 0)
    blamed = DecodedChunk(SID, 0, 0, 0, 0, 0, True, chunk)
    with capture_logs() as logged, Context() as context:
        client = DealerSocket(context, endpoint, 1 << 20)
        exchange(client, messages.Welcome, hello(SID))
        server.record_violations([blamed] * (VIOLATIONS_PER_BAN - 1), "expected finite losses")
        assert (server.session_count(), server.refresh_status().bans) == (1, 0)
        server.record_violations([blamed], "expected finite losses")
        assert (server.session_count(), server.refresh_status().bans) == (0, 1)
        server.record_violations([blamed], "expected finite losses")
        assert server.refresh_status().bans == 1
        client.close()
    named = [(row["sid"], row.get("host")) for row in logged if row["event"] == "session_to_blame"]
    assert named == [(SID.hex(), "host")] * VIOLATIONS_PER_BAN + [(SID.hex(), None)]


def test_an_error_of_the_network_thread_ends_the_run(
    server: Server, start: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every later call raises one sentence, and so does the trainer's `take`, which makes no call."""
    start()

    def tick(registry: SessionRegistry, now: float) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(SessionRegistry, "tick", tick)
    with pytest.raises(Fatal, match="ZeroDivisionError"):
        while True:
            server.session_count()
    with pytest.raises(Fatal, match="ZeroDivisionError"):
        server.take(0.0)


def test_a_taken_address_is_refused_and_nothing_is_left_running(
    server: Server, start: Callable[[], str]
) -> None:
    """The test session fails if a thread is left."""
    other = Server(CONFIG, SPACES, 1, None, None)
    port = free_port()
    pair = (f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port + 1}")
    server.start([pair])
    with pytest.raises(BindError, match=str(port)):
        other.start([pair])


def test_the_sessions_of_local_actors_are_ended_by_a_restore(
    server: Server, start: Callable[[], str], tmp_path: Path
) -> None:
    """Their processes ended with the learner; a remote session is expected to return."""
    earlier = Server(CONFIG, SPACES, 0, None, None)
    endpoint = f"ipc://{tmp_path}/earlier"
    earlier.start([(endpoint, weights_endpoint(endpoint))])
    with Context() as context:
        for sid in (SID, bytes(16)):
            client = DealerSocket(context, endpoint, 1 << 20)
            exchange(client, messages.Welcome, hello(sid))
            heartbeat = messages.Heartbeat(sid=sid, generation=0, produced=PRODUCED, stats={})
            exchange(client, messages.Ack, heartbeat)
            client.close()
    earlier.local_sessions = frozenset({SID})
    text = earlier.accounting()
    earlier.close()
    server.restore(text)
    start()
    assert server.status.totals.produced == 2 * PRODUCED
    assert server.status.totals.dropped == {"actor_lost": PRODUCED}
