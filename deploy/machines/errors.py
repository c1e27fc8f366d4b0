"""The error of a command on one machine."""

from __future__ import annotations

from common.process.lifecycle import EXIT_CONFIGURATION


class MachineError(Exception):
    """A command failed on one machine; the text is one sentence."""

    def __init__(self, text: str, code: int = EXIT_CONFIGURATION) -> None:
        super().__init__(text)
        self.code = code
