"""The base class of peers that attack a learner from their own threads."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import zmq

from common.keys.curve import ActorKeys
from common.protocol import codec
from common.protocol import messages as m
from common.protocol.sockets import Context, DealerSocket
from tests.support.protocol_peer import SessionPeer

WAIT_SECONDS = 0.1  # the longest wait for an answer, or for room in the send queue


class AttackingPeer(SessionPeer):
    """Attacks from its own thread during the block, and counts its messages."""

    def __init__(self, data_endpoint: str, keys: ActorKeys | None = None) -> None:
        super().__init__(Context(), data_endpoint, keys)
        self.stopped = threading.Event()
        self.sent = 0
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        self._thread.join()
        if self.error is not None and error is None:
            raise self.error

    def attack(self) -> None:
        """Attack until `stopped` is set."""
        raise NotImplementedError

    def attempt(self, socket: DealerSocket, message: m.Message | list[bytes]) -> bool:
        """Send, unless the queue stays full: the learner may read more slowly than this peer writes."""
        parts = message if isinstance(message, list) else codec.encode(message)
        sent = bool(socket.raw.poll(int(WAIT_SECONDS * 1000), zmq.POLLOUT)) and socket.send(parts)
        self.sent += sent
        return sent

    def _run(self) -> None:
        try:
            self.attack()
        except BaseException as error:  # noqa: BLE001  # the test raises it
            self.error = error
        finally:
            self.context.raw.destroy(linger=0)
