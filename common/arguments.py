"""The parts that all command lines share: error messages of one sentence, and exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

import structlog

from common import log
from common.process.lifecycle import (
    EXIT_CLOSED_PIPE,
    EXIT_DONE,
    EXIT_INTERNAL,
    EXIT_TEMPORARY,
    EXIT_USAGE,
    Fatal,
)
from common.process.output import discard_if_closed


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `Fatal` with one sentence."""

    def error(self, message: str) -> NoReturn:
        """Report a usage error.

        Raises:
            Fatal: always, with the exit code for usage errors.
        """
        raise Fatal(EXIT_USAGE, f"{message}; see {self.prog} --help")


def at_least(minimum: int, *words: str) -> Callable[[str], int]:
    """An argument type: integers of at least `minimum`. Errors name the accepted `words`, too."""

    def integer(text: str) -> int:
        if not (text.isdecimal() and int(text) >= minimum):
            raise argparse.ArgumentTypeError(
                f"expected {' or '.join((*words, f'an integer of at least {minimum}'))}, got {text!r}"
            )
        return int(text)

    return integer


def exit_code(command: Callable[[], int | None], name: str) -> int:
    """Run a command and return its exit code; write `Fatal` as one sentence to standard error.

    The command returns an exit code, or None for success. A closed output pipe, as in `command | head`, ends
    it without a message.
    """
    try:
        try:
            return command() or EXIT_DONE
        finally:
            sys.stdout.flush()  # raises BrokenPipeError here rather than at interpreter exit
    except Fatal as fatal:
        sys.stderr.write(f"{name}: {fatal}\n")
        return fatal.code
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: stopped before the end\n")
        return EXIT_TEMPORARY
    except Exception as error:  # noqa: BLE001  # any other exception is a defect: log its traceback
        if isinstance(error, BrokenPipeError) and discard_if_closed(sys.stdout):
            return EXIT_CLOSED_PIPE
        log.configure(name)
        structlog.get_logger().exception(f"{name}_failed")
        return EXIT_INTERNAL
