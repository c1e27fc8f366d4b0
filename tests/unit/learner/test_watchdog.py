"""A thread that hangs ends its process, with a log line and a traceback; a process that was stopped lives."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from learner.watchdog import Stall, StallDetector, StallLimits
from tests.support.processes import PATIENCE_SECONDS, ROOT

TICK_SECONDS = 1.0
PATIENCE = {"network": StallLimits(10.0, 60.0), "trainer": StallLimits(20.0, 90.0)}

# The main thread never stops turning; the other one stops as soon as it has begun.
PROGRAM = """
import threading, time
from common import log
from learner.watchdog import StallLimits, Watchdog

log.configure("learner")
turned = {"network": time.monotonic(), "main": time.monotonic()}

def hang_here():
    threading.Event().wait()

threading.Thread(target=hang_here).start()
Watchdog(lambda: turned, {"network": StallLimits(0.5, 1.5), "main": StallLimits(600.0, 600.0)}, 0.1)
while True:
    time.sleep(0.05)
    turned["main"] = time.monotonic()
"""


def detector() -> StallDetector:
    """Begins at time 100."""
    return StallDetector(PATIENCE, TICK_SECONDS, 100.0)


def looks(detector: StallDetector, start: int, stop: int, turned: dict[str, float]) -> list[Stall]:
    """A look per second from `start` to before `stop`; threads that `turned` does not name turn each time."""
    stalls = []
    for now in range(start, stop):
        stalls += detector.look(dict.fromkeys(PATIENCE, float(now)) | turned, float(now))
    return stalls


def test_a_thread_that_hangs_is_named_and_ends_the_process() -> None:
    """Exit 70 after its patience; the traceback shows where it hangs."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 70
    lines = [json.loads(line) for line in done.stderr.decode().splitlines() if line.startswith("{")]
    # More than two if the machine stops the watchdog for over five ticks: the silence then counts from 0.
    assert len(lines) >= 2 and {line["thread"] for line in lines} == {"network"}
    assert lines[0]["seconds"] >= 0.5 and lines[-1]["seconds"] >= 1.5
    assert ["--resume" in line["next"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert b"hang_here" in done.stderr


def test_silence_is_shown_from_the_first_second_and_reported_once() -> None:
    """A slow update is reported once, and forgotten when it is over."""
    dog = detector()
    assert looks(dog, 100, 120, {"trainer": 100.0}) == []
    assert dog.silence_seconds == {"network": 0.0, "trainer": 19.0}
    assert looks(dog, 120, 180, {"trainer": 100.0}) == [Stall("trainer", 20.0, ends=False)]
    assert looks(dog, 180, 190, {}) == []
    assert dog.silence_seconds == {"network": 0.0, "trainer": 0.0}
    assert looks(dog, 190, 220, {"trainer": 190.0}) == [Stall("trainer", 20.0, ends=False)]


def test_silence_that_lasts_ends_the_process_by_the_patience_with_that_thread() -> None:
    stalls = looks(detector(), 100, 161, {"network": 100.0, "trainer": 100.0})
    assert stalls == [
        Stall("network", 10.0, ends=False),
        Stall("trainer", 20.0, ends=False),
        Stall("network", 60.0, ends=True),
    ]


def test_a_process_that_was_stopped_is_not_stuck() -> None:
    """No thread turns while the whole process stands still: its silence counts from then on."""
    dog = detector()
    assert looks(dog, 100, 105, {}) == []
    assert dog.look(dict.fromkeys(PATIENCE, 104.0), 1_000.0) == []
    assert dog.silence_seconds == {"network": 0.0, "trainer": 0.0}
    assert looks(dog, 1_001, 1_011, {"network": 104.0}) == [Stall("network", 10.0, ends=False)]


def test_a_look_that_is_a_little_late_forgives_nothing() -> None:
    """Otherwise a busy machine would hide a thread that hangs."""
    dog = detector()
    assert dog.look({"network": 100.0}, 105.0) == []
    assert dog.look({"network": 100.0}, 110.0) == [Stall("network", 10.0, ends=False)]
