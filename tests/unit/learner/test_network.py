"""The loop of the network thread, with a script instead of sockets and a clock instead of time."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from common.config import Config
from common.protocol import codec
from common.protocol import messages as m
from common.protocol.sockets import Waker
from learner.server import network
from learner.server.admission import Admission
from learner.server.network import Network
from learner.server.rate_limit import Sender
from learner.server.sessions import LEASE_SECONDS, SETUP_SECONDS
from tests.support.clock import Clock
from tests.support.processes import PATIENCE_SECONDS
from tests.support.wire_fuzz import hello

SID, PEER = bytes(range(16)), b"honest"
STEP_SECONDS = 0.4  # of a loop; two are too short to count as a stall


@dataclass
class Data:
    """The data port: each loop reads the next entry of its script, whether a message is discarded."""

    script: list[bool]
    discarding: bool = False
    waiting: list[m.Message] = field(default_factory=list)

    def receive(self) -> Iterator[tuple[bytes, str, list[bytes], int, int]]:
        if self.script:
            self.discarding = self.script.pop(0)
        while self.waiting and not self.discarding:
            yield PEER, "", codec.encode(self.waiting.pop(0)), 0, 0

    def send(self, peer: bytes, parts: list[bytes]) -> bool:
        return True


class ScriptedPorts:
    """Ports whose data port follows a script; after it, time stands still and nothing happens."""

    def __init__(self, clock: Clock, data: Data) -> None:
        self._clock, self.data, self.authenticator = clock, data, None
        self.weights = SimpleNamespace(receive=lambda: iter(()))
        self.refused: dict[str, int] = {}
        self.send_queue_full = 0
        self.key_names: dict[str, str] = {}
        self.done = threading.Event()

    def __enter__(self) -> ScriptedPorts:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def wait(self, waker: Waker, timeout_seconds: float) -> None:
        if self.data.script:
            self._clock.now += STEP_SECONDS
        else:
            self.done.set()
            select.select([waker], [], [])

    def drop_floods(self, now: float) -> None:
        pass

    def sender(self, peer: bytes, key: str) -> Sender:
        return Sender(peer)


def run_script(script: list[bool], monkeypatch: pytest.MonkeyPatch) -> Admission:
    """Run the loops of a script; a session joins in the first one and sends nothing after a heartbeat."""
    clock, admission = Clock(), Admission(Config(), 0, bytes(32))
    heartbeat = m.Heartbeat(sid=SID, generation=0, produced=0, stats={})
    data = Data([False, *script], waiting=[hello(SID), heartbeat])
    decoder: Any = SimpleNamespace(waiting_chunks=0, decode_seconds=0.0)
    publisher: Any = SimpleNamespace(sent_bytes=0, pulls=0)
    monkeypatch.setattr(network, "time", clock)
    ports = ScriptedPorts(clock, data)
    monkeypatch.setattr(network, "Ports", lambda *args: ports)
    served = Network(admission, publisher, decoder, 1 << 20)
    served.start([])
    assert ports.done.wait(PATIENCE_SECONDS)
    served.close()
    assert served.failure is None
    return admission


LOOPS = int((SETUP_SECONDS + LEASE_SECONDS) / STEP_SECONDS) + 10


def test_no_lease_ends_while_messages_wait_behind_one_of_too_many_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The session may have sent heartbeats, but none could be read."""
    admission = run_script([True] * LOOPS + [False], monkeypatch)
    assert admission.registry.sessions.get(SID) is not None


def test_a_session_that_is_silent_while_messages_are_read_loses_its_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admission = run_script([False] * LOOPS, monkeypatch)
    assert admission.registry.sessions.get(SID) is None


def test_a_flood_of_messages_of_too_many_parts_keeps_no_silent_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Leases are checked between two of them."""
    admission = run_script([True, False] * LOOPS, monkeypatch)
    assert admission.registry.sessions.get(SID) is None
