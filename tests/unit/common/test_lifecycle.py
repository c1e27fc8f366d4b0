"""The end of a process."""

from __future__ import annotations

import subprocess
import sys

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
