"""A thread that hangs ends its process, with a log line and a traceback; a stopped process continues."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from learner.watchdog import Stall, StallDetector, StallLimits
from tests.support.processes import PATIENCE_SECONDS, ROOT

TICK_SECONDS = 1.0
LIMITS = {"network": StallLimits(10.0, 60.0), "trainer": StallLimits(20.0, 90.0)}

# The main thread loops for ever; the other thread hangs at once.
PROGRAM = """
import threading, time
from common import log
from learner.watchdog import StallLimits, Watchdog

log.configure("learner")
loop_times = {"network": time.monotonic(), "main": time.monotonic()}

def hang_here():
    threading.Event().wait()

threading.Thread(target=hang_here).start()
Watchdog(lambda: loop_times, {"network": StallLimits(0.5, 1.5), "main": StallLimits(600.0, 600.0)}, 0.1)
while True:
    time.sleep(0.05)
    loop_times["main"] = time.monotonic()
"""


def detector_at_100() -> StallDetector:
    """A detector that begins at time 100."""
    return StallDetector(LIMITS, TICK_SECONDS, 100.0)


def check_each_second(
    detector: StallDetector, start: int, stop: int, loop_times: dict[str, float]
) -> list[Stall]:
    """Check from `start` to before `stop`; threads that `loop_times` does not name loop each time."""
    stalls = []
    for now in range(start, stop):
        stalls += detector.check(dict.fromkeys(LIMITS, float(now)) | loop_times, float(now))
    return stalls


def test_a_thread_that_hangs_is_named_and_ends_the_process() -> None:
    """The exit code is 70; the traceback shows where it hangs."""
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
    """A slow update is reported once; after it the silence counts from 0."""
    detector = detector_at_100()
    assert check_each_second(detector, 100, 120, {"trainer": 100.0}) == []
    assert detector.silence_seconds == {"network": 0.0, "trainer": 19.0}
    assert check_each_second(detector, 120, 180, {"trainer": 100.0}) == [Stall("trainer", 20.0, ends=False)]
    assert check_each_second(detector, 180, 190, {}) == []
    assert detector.silence_seconds == {"network": 0.0, "trainer": 0.0}
    assert check_each_second(detector, 190, 220, {"trainer": 190.0}) == [Stall("trainer", 20.0, ends=False)]


def test_silence_that_lasts_ends_the_process_by_the_limits_of_that_thread() -> None:
    stalls = check_each_second(detector_at_100(), 100, 161, {"network": 100.0, "trainer": 100.0})
    assert stalls == [
        Stall("network", 10.0, ends=False),
        Stall("trainer", 20.0, ends=False),
        Stall("network", 60.0, ends=True),
    ]


def test_the_silence_of_a_process_that_was_stopped_counts_from_its_continuation() -> None:
    """No thread loops while the whole process is stopped."""
    detector = detector_at_100()
    assert check_each_second(detector, 100, 105, {}) == []
    assert detector.check(dict.fromkeys(LIMITS, 104.0), 1_000.0) == []
    assert detector.silence_seconds == {"network": 0.0, "trainer": 0.0}
    assert check_each_second(detector, 1_001, 1_011, {"network": 104.0}) == [
        Stall("network", 10.0, ends=False)
    ]


def test_a_check_that_is_a_little_late_does_not_restart_the_silence() -> None:
    """Otherwise a busy machine would hide a thread that hangs."""
    detector = detector_at_100()
    assert detector.check({"network": 100.0}, 105.0) == []
    assert detector.check({"network": 100.0}, 110.0) == [Stall("network", 10.0, ends=False)]
