"""Structured logging to standard error: an event name with key-value pairs."""

from __future__ import annotations

import logging
import sys
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


def configure(role: str) -> None:
    """Configure logging for this process: readable lines on a terminal, else JSON."""
    fields["role"] = role
    renderer: structlog.typing.Processor
    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            _add_fields,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Output())),
    )
