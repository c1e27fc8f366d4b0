"""What the commands share at the command line: complaints of one sentence, and exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from common.lifecycle import EXIT_TEMPORARY, EXIT_USAGE, Fatal


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one sentence, raised as `Fatal`."""

    def error(self, message: str) -> NoReturn:
        """Complain.

        Raises:
            Fatal: always, with the exit code of bad usage.
        """
        raise Fatal(EXIT_USAGE, f"{message}; see {self.prog} --help")


def at_least(least: int) -> Callable[[str], int]:
    """An argument type: whole numbers from `least` on."""

    def whole(text: str) -> int:
        if not (text.isdecimal() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        return int(text)

    return whole


def exit_code(command: Callable[[], None], name: str) -> int:
    """Run a command; what the user has to mend becomes one sentence on standard error."""
    try:
        command()
    except Fatal as fatal:
        sys.stderr.write(f"{name}: {fatal}\n")
        return fatal.code
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: stopped before the end\n")
        return EXIT_TEMPORARY
    return 0
