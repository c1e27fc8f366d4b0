"""An actor's connection to the learner's data port: its socket, its timeout, and when it sends next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from actor import limits
from common.process.lifecycle import Backoff
from common.protocol import codec
from common.protocol.messages import Message
from common.protocol.sockets import DealerSocket

HELLO_SECONDS = 1.0  # how long a Hello waits for its answer before the next one
_PAUSE_SECONDS = 1.0  # a longer pause of this process extends the learner's timeout by the pause
_FIRST_LEASE_SECONDS = 10.0  # the learner's timeout before a Welcome sets it


class Connection:
    """A connection that can be replaced. Owned by the actor's only thread.

    `connect` makes a new socket to the learner's data port.
    """

    def __init__(self, connect: Callable[[], DealerSocket]) -> None:
        self._connect = connect
        self._socket = connect()
        self._backoff = Backoff()
        self._accepted = False  # whether the learner has accepted this actor
        self._silent_since = self._polled_at = time.monotonic()
        self._next_message_at = 0.0
        self._heartbeat_seconds, self._lease_seconds = HELLO_SECONDS, _FIRST_LEASE_SECONDS

    def receive(self, timeout_seconds: float, wake_descriptor: int | None) -> Iterator[list[bytes]]:
        """Yield the messages that have arrived, up to a limit; wait for the first one.

        A pause since the last call extends the learner's timeout, because this process read nothing then.

        Args:
            timeout_seconds: the longest wait.
            wake_descriptor: a file descriptor that ends the wait when it becomes readable, or None.
        """
        pause_seconds = time.monotonic() - self._polled_at
        if pause_seconds > _PAUSE_SECONDS:
            self._silent_since += pause_seconds
        for number in range(limits.POLL_MESSAGES):
            parts = self._socket.receive(max(0.0, timeout_seconds) if number == 0 else 0.0, wake_descriptor)
            if parts is None:
                break
            self._silent_since = time.monotonic()
            yield parts
        self._polled_at = time.monotonic()

    def send(self, message: Message) -> None:
        """Send a message; it is lost if there is no connection or the socket's queue is full."""
        self.send_encoded(codec.encode(message))

    def send_encoded(self, parts: list[bytes]) -> None:
        """Send a message that is already encoded; see `send`."""
        self._socket.send(parts)

    def refusal(self) -> str | None:
        """Why the learner will never accept this actor, in one sentence; None if that is not certain."""
        return self._socket.refusal(known=self._accepted)

    def silence(self) -> str | None:
        """One sentence if the learner has been silent for longer than its timeout; None otherwise."""
        silent_seconds = self._polled_at - self._silent_since
        if silent_seconds <= self._lease_seconds:
            return None
        return (
            f"expected an answer from the learner, got none for {silent_seconds:.0f} s: "
            "check --learner and that it runs; reconnecting"
        )

    @property
    def message_due(self) -> bool:
        """Whether the next Hello or heartbeat is due."""
        return self._polled_at >= self._next_message_at

    def schedule_now(self) -> None:
        """Make the next message due at once."""
        self._next_message_at = 0.0

    def schedule_heartbeat(self) -> None:
        """Make the next message due after the learner's heartbeat interval."""
        self._next_message_at = self._polled_at + self._heartbeat_seconds

    def schedule_hello(self) -> None:
        """Make the next message due after the time for an answer and a back-off."""
        self._next_message_at = self._polled_at + HELLO_SECONDS + self._backoff.next_seconds()

    def schedule_after(self, seconds: float) -> None:
        """Make the next message due after `seconds`; the learner's timeout starts then."""
        self._silent_since = self._next_message_at = time.monotonic() + seconds

    def accepted(self, heartbeat_ms: int, lease_ms: int) -> None:
        """Use the heartbeat interval and the timeout that a Welcome contains, within limits."""
        self._heartbeat_seconds = limits.limited_seconds(heartbeat_ms, limits.HEARTBEAT_SECONDS)
        self._lease_seconds = limits.limited_seconds(lease_ms, limits.LEASE_SECONDS)
        self._backoff.reset()
        self._accepted = True

    def reconnect(self) -> None:
        """Replace the socket with a new one."""
        self._socket.close()
        self._socket = self._connect()
        self._silent_since = time.monotonic()

    def close(self) -> None:
        """Close the connection; queued messages have one second to be sent."""
        self._socket.close(linger_seconds=1.0)
