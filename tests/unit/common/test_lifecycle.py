"""The end of a process, and its exit code."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.support.processes import PATIENCE_SECONDS

_CODE = """
import atexit
from common.process.lifecycle import exit_process
atexit.register(print, "teardown")
print("output", end="")
exit_process(75)
"""


def test_a_process_that_leaves_flushes_its_output_and_skips_the_teardown() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _CODE], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert (ended.returncode, ended.stdout) == (75, "output")


_STOPPED = """
import signal, sys
from common.process.lifecycle import EXIT_TEMPORARY, exit_process, stop_on_signals
stop = stop_on_signals()
signal.raise_signal(int(sys.argv[1]))
assert stop.is_set()
exit_process(stop.exit_code(int(sys.argv[2])))
"""
_STARTING = """
import signal, sys
from common.process.lifecycle import exit_on_signals
exit_on_signals()
signal.raise_signal(int(sys.argv[1]))
"""


def exit_code(code: str, number: signal.Signals, *words: str) -> int:
    command = [sys.executable, "-c", code, str(int(number)), *words]
    return subprocess.run(command, timeout=PATIENCE_SECONDS, check=False).returncode


@pytest.mark.parametrize(
    ("number", "work", "expected"),
    [
        (signal.SIGTERM, 75, 75),
        (signal.SIGINT, 75, 0),
        (signal.SIGTERM, 0, 0),
        (signal.SIGINT, 0, 0),
        (signal.SIGINT, 78, 78),
        (signal.SIGTERM, 70, 70),
    ],
)
def test_unfinished_work_exits_with_75_after_sigterm_and_with_0_after_ctrl_c(
    number: signal.Signals, work: int, expected: int
) -> None:
    """Finished work and errors keep their code."""
    assert exit_code(_STOPPED, number, str(work)) == expected


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 75), (signal.SIGINT, 0)])
def test_a_process_that_is_stopped_while_it_starts_ends_at_once(
    number: signal.Signals, expected: int
) -> None:
    assert exit_code(_STARTING, number) == expected
