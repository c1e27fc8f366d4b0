"""The proxy applies its weather to the traffic, equally for equal seeds."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.processes import PATIENCE_SECONDS, free_port, wait_until
from tests.support.proxy import PARTITION, FaultProxy, Weather, schedule

TEXT = bytes(range(256)) * 64


@contextlib.contextmanager
def echo() -> Iterator[int]:
    """A server that sends back what it reads."""
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
    """Send a text through a new connection; returns what comes back until the connection ends."""
    with socket.create_connection(("127.0.0.1", proxy.port)) as peer:
        peer.settimeout(PATIENCE_SECONDS)
        came = b""
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(text), 1024):
                peer.sendall(text[start : start + 1024])
            while len(came) < len(text) and (block := peer.recv(65_536)):
                came += block
        return came


def test_traffic_without_weather_is_unchanged(proxy: FaultProxy) -> None:
    assert echoed(proxy, TEXT) == TEXT


def test_what_is_held_arrives_when_the_hold_ends(proxy: FaultProxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port)) as peer:
        peer.sendall(b"before")
        assert peer.recv(100) == b"before"
        peer.settimeout(0.3)
        for weather in (PARTITION, Weather(hold_up=True), Weather(hold_down=True)):
            with proxy.during(weather):
                peer.sendall(b"during")
                with pytest.raises(TimeoutError):
                    peer.recv(100)
            peer.settimeout(PATIENCE_SECONDS)
            assert peer.recv(100) == b"during"
            peer.settimeout(0.3)


def test_a_half_open_connection_is_silent_and_does_not_end(proxy: FaultProxy) -> None:
    """Sent bytes vanish; only the sender can end the connection."""
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


def test_a_cut_ends_the_connection_after_about_so_many_bytes(proxy: FaultProxy) -> None:
    with proxy.during(Weather(cut_bytes=4_000)):
        assert len(echoed(proxy, TEXT)) < len(TEXT)
    wait_until(lambda: proxy.cuts >= 1, "a cut that is counted")


def test_bits_flip(proxy: FaultProxy) -> None:
    with proxy.during(Weather(flip=1.0)):
        came = echoed(proxy, TEXT)
    assert len(came) == len(TEXT) and came != TEXT


def test_blocks_vanish(proxy: FaultProxy) -> None:
    """What is sent before and afterwards arrives; what is sent during the weather does not."""
    with socket.create_connection(("127.0.0.1", proxy.port)) as peer:
        peer.settimeout(PATIENCE_SECONDS)
        peer.sendall(b"before")
        assert peer.recv(100) == b"before"
        with proxy.during(Weather(drop=1.0)):
            peer.sendall(b"during")
            wait_until(lambda: proxy.drops == 1, "a block that is dropped")
        peer.sendall(b"after")
        assert peer.recv(100) == b"after"


def test_throttle_and_delay_take_their_time(proxy: FaultProxy) -> None:
    for weather in (Weather(bytes_per_second=20_000), Weather(delay_seconds=0.1)):
        with proxy.during(weather):
            start = time.monotonic()
            assert echoed(proxy, TEXT[:4_096]) == TEXT[:4_096]
            assert time.monotonic() - start > 0.2


def test_a_schedule_is_its_seed() -> None:
    kinds = (PARTITION, Weather(flip=0.1), None)
    faults = schedule(5, 10, (3.0, 60.0), kinds)
    assert faults == schedule(5, 10, (3.0, 60.0), kinds) != schedule(6, 10, (3.0, 60.0), kinds)
    assert [fault.weather for fault in faults[:4]] == [*kinds, PARTITION]
    assert all(3.0 <= fault.seconds <= 60.0 for fault in faults)


def test_a_connection_suffers_the_same_from_the_same_seed() -> None:
    """Bit for bit, for equal bytes in equal blocks."""
    came = []
    for seed in (3, 3, 4):
        with (
            echo() as target,
            FaultProxy(free_port(), target, seed) as proxy,
            proxy.during(Weather(flip=1.0)),
            socket.create_connection(("127.0.0.1", proxy.port)) as peer,
        ):
            peer.settimeout(PATIENCE_SECONDS)
            blocks = []
            for _ in range(5):
                peer.sendall(TEXT[:1_024])
                blocks.append(peer.recv(2_048))
            came.append(blocks)
    assert came[0] == came[1] != came[2]
