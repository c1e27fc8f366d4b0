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
