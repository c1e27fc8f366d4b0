"""The proxy applies its conditions to the traffic; equal seeds have equal effects."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.processes import PATIENCE_SECONDS, free_port, wait_until
from tests.support.proxy import PARTITION, FaultProxy, NetworkConditions, schedule

TEXT = bytes(range(256)) * 64


@contextlib.contextmanager
def echo() -> Iterator[int]:
    """Run a server that sends back every byte; yields its port."""
    with socket.create_server(("127.0.0.1", free_port())) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    threading.Thread(target=answer, args=(peer,), daemon=True).start()

        def answer(peer: socket.socket) -> None:
            with contextlib.suppress(OSError), peer:
                while block := peer.recv(65_536):
                    peer.sendall(block)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with echo() as target, FaultProxy(free_port(), target, seed=3) as proxy:
        yield proxy


def echoed(proxy: FaultProxy, text: bytes) -> bytes:
    """Send a text through a new connection; return the bytes that arrive until the connection ends."""
    with socket.create_connection(("127.0.0.1", proxy.port)) as peer:
        peer.settimeout(PATIENCE_SECONDS)
        received = b""
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(text), 1024):
                peer.sendall(text[start : start + 1024])
            while len(received) < len(text) and (block := peer.recv(65_536)):
                received += block
        return received


def test_traffic_without_faults_is_unchanged(proxy: FaultProxy) -> None:
    assert echoed(proxy, TEXT) == TEXT


def test_held_traffic_arrives_when_the_hold_ends(proxy: FaultProxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port)) as peer:
        peer.sendall(b"before")
        assert peer.recv(100) == b"before"
        peer.settimeout(0.3)
        for conditions in (PARTITION, NetworkConditions(hold_up=True), NetworkConditions(hold_down=True)):
            with proxy.during(conditions):
                peer.sendall(b"during")
                with pytest.raises(TimeoutError):
                    peer.recv(100)
            peer.settimeout(PATIENCE_SECONDS)
            assert peer.recv(100) == b"during"
            peer.settimeout(0.3)


def test_a_half_open_connection_is_silent_and_does_not_end(proxy: FaultProxy) -> None:
    """The bytes that a peer sends are lost, and only the peer can end the connection."""
    with socket.create_connection(("127.0.0.1", proxy.port)) as peer:
        peer.sendall(b"before")
        assert peer.recv(100) == b"before"
        proxy.half_open()
        peer.settimeout(0.5)
        for _ in range(2):
            peer.sendall(b"after")
            with pytest.raises(TimeoutError):
                peer.recv(100)
    assert echoed(proxy, TEXT) == TEXT


def test_a_cut_ends_the_connection_after_about_the_given_number_of_bytes(proxy: FaultProxy) -> None:
    with proxy.during(NetworkConditions(cut_bytes=4_000)):
        assert len(echoed(proxy, TEXT)) < len(TEXT)
    wait_until(lambda: proxy.cuts >= 1, "a cut that is counted")


def test_bits_flip(proxy: FaultProxy) -> None:
    with proxy.during(NetworkConditions(flip=1.0)):
        received = echoed(proxy, TEXT)
    assert len(received) == len(TEXT) and received != TEXT


def test_blocks_vanish(proxy: FaultProxy) -> None:
    """Bytes that are sent before and after the fault arrive; those that are sent during it do not."""
    with socket.create_connection(("127.0.0.1", proxy.port)) as peer:
        peer.settimeout(PATIENCE_SECONDS)
        peer.sendall(b"before")
        assert peer.recv(100) == b"before"
        with proxy.during(NetworkConditions(drop=1.0)):
            peer.sendall(b"during")
            wait_until(lambda: proxy.drops == 1, "a block that is dropped")
        peer.sendall(b"after")
        assert peer.recv(100) == b"after"


def test_throttle_and_delay_slow_the_traffic(proxy: FaultProxy) -> None:
    for conditions in (NetworkConditions(bytes_per_second=20_000), NetworkConditions(delay_seconds=0.1)):
        with proxy.during(conditions):
            start = time.monotonic()
            assert echoed(proxy, TEXT[:4_096]) == TEXT[:4_096]
            assert time.monotonic() - start > 0.2


def test_the_seed_determines_a_schedule() -> None:
    kinds = (PARTITION, NetworkConditions(flip=0.1), None)
    faults = schedule(5, 10, (3.0, 60.0), kinds)
    assert faults == schedule(5, 10, (3.0, 60.0), kinds) != schedule(6, 10, (3.0, 60.0), kinds)
    assert [fault.conditions for fault in faults[:4]] == [*kinds, PARTITION]
    assert all(3.0 <= fault.seconds <= 60.0 for fault in faults)


def test_equal_seeds_damage_a_connection_equally() -> None:
    """The received bytes are equal if the sent bytes and their blocks are."""
    received = []
    for seed in (3, 3, 4):
        with (
            echo() as target,
            FaultProxy(free_port(), target, seed) as proxy,
            proxy.during(NetworkConditions(flip=1.0)),
            socket.create_connection(("127.0.0.1", proxy.port)) as peer,
        ):
            peer.settimeout(PATIENCE_SECONDS)
            blocks = []
            for _ in range(5):
                peer.sendall(TEXT[:1_024])
                blocks.append(peer.recv(2_048))
            received.append(blocks)
    assert received[0] == received[1] != received[2]
