"""Flow control of one session: its credit, and what its chunks have shown so far."""

from __future__ import annotations

_CRC_TRIES = 3  # damaged copies of a chunk that are requested again; the next one is dropped


class FlowState:
    """The credit of a session and the state of its stream of chunks. Only its own methods change it."""

    def __init__(self) -> None:
        self.credit = 0  # offset up to which the session may collect steps
        self.steps_received = 0  # since it has its slot
        self._crc_failures = 0  # in a row
        self._late_violation: str | None = None

    def raise_credit(self, offset: int) -> None:
        """Permit steps up to `offset`; credit never falls."""
        self.credit = max(self.credit, offset)

    def receive(self, steps: int) -> None:
        """Count new steps."""
        self.steps_received += steps

    def retry_damaged(self) -> bool:
        """Count a damaged copy of a chunk; returns whether the peer should send it again."""
        retry = self._crc_failures < _CRC_TRIES
        self._crc_failures += retry
        return retry

    def clear_damaged(self) -> None:
        """Forget the damaged copies of the chunk that was received."""
        self._crc_failures = 0

    def record_late_violation(self, violation: str) -> None:
        """Keep a violation of a message that was already accepted, until the next message."""
        self._late_violation = violation

    def take_late_violation(self) -> list[str]:
        """Return the violation that was kept, if any, once."""
        taken = [] if self._late_violation is None else [self._late_violation]
        self._late_violation = None
        return taken
