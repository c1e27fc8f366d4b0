"""How a process stops, how long it waits between attempts, and what its exit codes mean."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

EXIT_DONE = 0
EXIT_USAGE = 2
EXIT_INTERNAL = 70
EXIT_TEMPORARY = 75
EXIT_CONFIGURATION = 78
EXIT_CLOSED_PIPE = 141  # 128 + SIGPIPE, as a shell reports a program that this signal ended


class Fatal(Exception):
    """A condition that ends the process: one sentence for the user, and an exit code."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class StopEvent(threading.Event):
    """An event that a signal sets to ask this process to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.by_user = False  # whether the signal was SIGINT, which Ctrl-C sends

    def exit_code(self, code: int) -> int:
        """Return the exit code of a process whose work ended with `code`.

        A process that SIGTERM stopped before the end of its work keeps `EXIT_TEMPORARY`, so that its
        supervisor starts it again after a reboot. After Ctrl-C the user wants no restart.
        """
        return EXIT_DONE if self.by_user and code == EXIT_TEMPORARY else code


def stop_on_signals() -> StopEvent:
    """Return an event that SIGTERM or SIGINT sets; a second signal ends the process at once."""
    stop = StopEvent()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.by_user = number == signal.SIGINT
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop


def exit_on_signals() -> None:
    """Let SIGTERM or SIGINT end this process at once: while it starts, it has nothing to save."""
    signal.signal(signal.SIGTERM, lambda number, frame: exit_process(EXIT_TEMPORARY))
    signal.signal(signal.SIGINT, lambda number, frame: exit_process(EXIT_DONE))


def exit_process(code: int) -> NoReturn:
    """Flush the output and end this process with `os._exit`, which skips PyTorch's teardown.

    The teardown takes 0.6 s of a core. With it, 64 actors on two cores would need 20 s to end, and their
    parent would kill the last ones.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Backoff:
    """Waits between attempts: doubled from 0.25 to 4 s, with jitter that spreads the attempts of a fleet."""

    def __init__(self) -> None:
        self._seconds = 0.25

    def next_seconds(self) -> float:
        """The next wait."""
        current, self._seconds = self._seconds, min(4.0, self._seconds * 2)
        return current * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load; nothing secret

    def reset(self) -> None:
        """Start again with the shortest wait; call it after a success."""
        self._seconds = 0.25
