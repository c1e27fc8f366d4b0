"""Structured logging to standard error: an event name with key-value pairs."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

from common.process.output import discard_if_closed

fields: dict[str, object] = {}  # in every line of this process, whichever thread logs it


class _Output:
    """A log file that writes to the current `sys.stderr`; a closed pipe does not end the process."""

    def write(self, text: str) -> None:
        """Write a line in one call, or discard it if the pipe is closed.

        With two calls, the lines of processes that share standard error could mix.
        """
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except BrokenPipeError:
            discard_if_closed(sys.stderr)

    def flush(self) -> None:
        """Do nothing: `write` flushes."""


def _add_fields(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add `fields` to an event, which may have its own values of them."""
    return {**fields, **event}


class _LineLimit:
    """A processor that drops the lines of an event beyond a number in each minute.

    The next line of the event has the number of dropped lines. Events are constants of the source.
    """

    def __init__(self, lines_per_minute: int) -> None:
        self._lines_per_minute, self._minute = lines_per_minute, 0
        self._lines: Counter[str] = Counter()  # of each event in this minute
        self._dropped: Counter[str] = Counter()

    def __call__(
        self, logger: object, method: str, line: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        minute, event = int(time.monotonic() // 60), str(line["event"])
        if minute != self._minute:
            self._minute, self._lines = minute, Counter()
        self._lines[event] += 1
        if self._lines[event] > self._lines_per_minute:
            self._dropped[event] += 1
            raise structlog.DropEvent
        dropped = self._dropped.pop(event, 0)
        return {**line, "lines_dropped": dropped} if dropped else line


def configure(role: str, lines_per_minute: int | None = None) -> None:
    """Configure logging for this process: readable lines on a terminal, else JSON.

    Args:
        role: the kind of process.
        lines_per_minute: the most lines of each event in a minute; None: no limit.
    """
    fields["role"] = role
    renderer: structlog.typing.Processor
    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            *([] if lines_per_minute is None else [_LineLimit(lines_per_minute)]),
            _add_fields,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Output())),
    )
