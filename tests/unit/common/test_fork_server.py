"""The owner's end of a forked process, without a server."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator

import pytest

from common.process import fork_server
from common.process.fork_server import ForkedProcess


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_a_signal_waits_a_bounded_time_for_the_fork(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "_FORK_SECONDS", 0.0)
    child = ForkedProcess(pipe[0])
    child.terminate()
    assert not child.forked and child.poll() is None
    os.write(pipe[1], struct.pack("=i", os.getpid()))
    assert child.pid == os.getpid() and child.forked


def test_a_child_whose_server_ended_before_the_fork_has_an_internal_error(pipe: tuple[int, int]) -> None:
    child = ForkedProcess(pipe[0])
    os.close(pipe[1])
    assert child.pid is None and child.returncode == child.wait() == 70 and not child.forked
