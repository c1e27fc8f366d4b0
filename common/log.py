"""Structured logging: one event name, facts as keys, to standard error."""

from __future__ import annotations

import logging
import sys
from typing import TextIO, cast

import structlog

from common.process.output import discard_if_closed


class _Output:
    """Writes to standard error as it is at that time; a closed pipe does not end the process."""

    def write(self, text: str) -> None:
        """Write a whole line at once, or discard it if the pipe is closed.

        Lines of processes that share standard error would mix if a line took two writes.
        """
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except BrokenPipeError:
            discard_if_closed(sys.stderr)

    def flush(self) -> None:
        """Do nothing: `write` flushes."""


def configure(role: str) -> None:
    """Set up logging once per process: readable lines on a terminal, JSON otherwise."""
    renderer: structlog.typing.Processor
    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Output())),
    )
    structlog.contextvars.bind_contextvars(role=role)
