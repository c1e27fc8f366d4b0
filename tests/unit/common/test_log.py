"""Log lines on standard error."""

from __future__ import annotations

import io
import json
import sys
import threading
from typing import cast

import pytest
import structlog

from common import log
from tests.support.clock import Clock


class Pipe(io.RawIOBase):
    """Records each write, as a pipe that several processes share receives it."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.writes.append(bytes(data))
        return len(data)


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("length", [1, 20_000])
def test_a_log_line_is_one_write(length: int, unbuffered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipe()
    binary = pipe if unbuffered else io.BufferedWriter(cast(io.FileIO, pipe))
    stream = io.TextIOWrapper(binary, line_buffering=True, write_through=unbuffered)  # type: ignore[type-var]
    monkeypatch.setattr(sys, "stderr", stream)
    log.configure("actor")
    for number in range(2):
        structlog.get_logger().info("event", number=number, text="x" * length)
    assert all(data.endswith(b"\n") for data in pipe.writes)
    assert [json.loads(data)["number"] for data in pipe.writes] == [0, 1]


def test_an_event_has_a_limited_number_of_lines_in_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next line has the number of dropped lines; other events are not concerned."""
    stream, clock = io.StringIO(), Clock(now=600.0)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(log, "time", clock)
    log.configure("actor", lines_per_minute=3)
    logger = structlog.get_logger()
    for _ in range(10):
        logger.warning("flood")
        clock.now += 1.0
    logger.warning("other")
    clock.now = 660.0
    logger.warning("flood")
    logger.warning("flood")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [*["flood"] * 3, "other", "flood", "flood"]
    assert [line.get("lines_dropped") for line in lines] == [None, None, None, None, 7, None]


def test_the_fields_of_a_process_are_in_the_lines_of_every_thread(capsys: pytest.CaptureFixture[str]) -> None:
    """An event that has such a field itself keeps its own value."""
    log.configure("learner")
    log.fields.update(run="freeway-1", generation=2)
    logger = structlog.get_logger()
    thread = threading.Thread(target=lambda: logger.info("event", slot=3))
    thread.start()
    thread.join()
    logger.info("event", generation=1)
    rows = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    found = [(row["role"], row["run"], row["generation"], row.get("slot")) for row in rows]
    assert found == [("learner", "freeway-1", 2, 3), ("learner", "freeway-1", 1, None)]
