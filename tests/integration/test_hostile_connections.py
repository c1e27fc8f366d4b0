"""Attacks on libzmq and on its queues do not end a learner and do not fill its memory."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

import pytest

from common.protocol.sockets import Context
from tests.support import raw_peer
from tests.support.processes import Command, free_port
from tests.support.result_files import keep
from tests.support.serving import Peer

pytestmark = pytest.mark.integration

GUESSES = 64  # routing ids after each predicted one, and connections that could collide with them
UNREAD_CONNECTIONS = 30


def unseeded_ids(routers: int) -> list[int]:
    """The first routing id of each of the first ROUTERs of a process that does not seed C's `rand`."""
    libc = ctypes.CDLL(None)
    libc.srand(1)  # the C standard's initial state
    ids = []
    for _ in range(routers):
        low, high = libc.rand(), libc.rand()
        ids.append(low | (high & 1) << 31)
    return ids


def test_connections_with_guessed_routing_ids_do_not_end_the_learner(tmp_path: Path) -> None:
    """libzmq aborts the process when it assigns a routing id that a connection asked for."""
    port = free_port()
    command = Command.start(tmp_path, "network", "tests.support.network_alone", str(port))
    with contextlib.ExitStack() as stack:
        stack.callback(command.end)
        context = stack.enter_context(Context())
        peer = stack.enter_context(contextlib.closing(Peer(context, f"tcp://127.0.0.1:{port}")))
        peer.join()
        for first in unseeded_ids(routers=2):
            for number in range(first, first + GUESSES):
                routing_id = b"\0" + (number % 2**32).to_bytes(4, "big")
                stack.enter_context(raw_peer.connect(port, routing_id))
        for _ in range(GUESSES):
            stack.enter_context(raw_peer.connect(port))
        with contextlib.closing(Peer(context, f"tcp://127.0.0.1:{port}")) as later:
            later.join()
        command.process.terminate()
        assert command.finish() == 0, command.err.read_text()


def test_weights_that_are_not_read_are_held_once_for_all_connections(tmp_path: Path) -> None:
    argv = ("tests.support.unread_weights", str(UNREAD_CONNECTIONS))
    command = Command.start(tmp_path, "weights", *argv)
    with contextlib.ExitStack() as stack:
        stack.callback(command.end)
        assert command.finish() == 0, command.err.read_text()
    weights_bytes, growth_bytes = map(int, command.out.read_text().split())
    keep("unread-weights", {"connections": UNREAD_CONNECTIONS, "memory_growth_bytes": growth_bytes})
    assert growth_bytes < 3 * weights_bytes
