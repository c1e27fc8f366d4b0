"""A thread that hangs ends its process, with a sentence and a traceback; a process that was stopped lives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from learner.watchdog import Patience, Watchdog
from tests.integration.processes import ROOT, wait_until

PROGRAM = """
import sys, threading, time
from common import log
from learner.watchdog import Patience, Watchdog

log.configure("learner")
turned = {"network": time.monotonic(), "trainer": time.monotonic()}
Watchdog(lambda: turned, {"network": Patience(0.5, 1.5), "trainer": Patience(9.0, 9.0)}, 0.1)

def loop():
    while True:
        turned["network"] = turned["trainer"] = time.monotonic()
        if sys.stdin.readline() == "hang\\n":
            hang_here()

def hang_here():
    threading.Event().wait()

threading.Thread(target=loop).start()
while True:
    time.sleep(0.05)
    turned["trainer"] = time.monotonic()
    if len(sys.argv) > 1:
        turned["network"] = time.monotonic()
"""


@pytest.fixture
def program() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_a_thread_that_hangs_is_named_and_ends_the_process(program: subprocess.Popen[bytes]) -> None:
    """Exit 70 after its patience; the traceback shows where it hangs."""
    _, said = program.communicate(b"hang\n", timeout=60)
    assert program.returncode == 70
    lines = [json.loads(line) for line in said.decode().splitlines() if line.startswith("{")]
    assert [line["thread"] for line in lines] == ["network", "network"]
    assert 0.5 <= lines[0]["seconds"] <= lines[1]["seconds"]
    assert "--resume" in lines[1]["next"]
    assert b"hang_here" in said


def test_a_process_that_was_stopped_is_not_stuck() -> None:
    """Nobody turned while all stood still."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "turns"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    time.sleep(2.0)
    program.send_signal(signal.SIGSTOP)
    time.sleep(2.0)
    program.send_signal(signal.SIGCONT)
    time.sleep(0.4)
    assert program.poll() is None
    program.kill()
    assert b"thread_stuck" not in program.communicate()[1]


def test_silence_is_shown_and_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    """A slow update is spoken of once, and forgotten when it is over."""
    turned, ends = {"trainer": time.monotonic()}, list[int]()
    dog = Watchdog(lambda: turned, {"trainer": Patience(0.2, 30.0)}, 0.05, ends.append)
    wait_until(lambda: dog.silence_seconds.get("trainer", 0.0) > 0.5, "silence", 10)
    turned["trainer"] = time.monotonic()
    wait_until(lambda: dog.silence_seconds["trainer"] < 0.1, "a turn", 10)
    dog.close()
    assert capfd.readouterr().err.count("most recent call first") >= 1
    assert ends == []
