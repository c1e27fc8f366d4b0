"""The base class of peers that attack a learner from their own threads."""

from __future__ import annotations

import zmq

from common.keys.curve import ActorKeys
from common.protocol import codec
from common.protocol import messages as m
from common.protocol.sockets import Context, DealerSocket
from tests.support.background import Background
from tests.support.protocol_peer import SessionPeer

WAIT_SECONDS = 0.1  # the longest wait for an answer, or for room in the send queue


class AttackingPeer(Background, SessionPeer):
    """Attacks from its own thread during the block, and counts its messages."""

    def __init__(self, data_endpoint: str, keys: ActorKeys | None = None) -> None:
        Background.__init__(self)
        SessionPeer.__init__(self, Context(), data_endpoint, keys)
        self.sent = 0

    def attack(self) -> None:
        """Attack until `stopped` is set."""
        raise NotImplementedError

    def attempt(self, socket: DealerSocket, message: m.Message | list[bytes]) -> bool:
        """Send, unless the queue stays full: the learner may read more slowly than this peer writes."""
        parts = message if isinstance(message, list) else codec.encode(message)
        sent = bool(socket.raw.poll(int(WAIT_SECONDS * 1000), zmq.POLLOUT)) and socket.send(parts)
        self.sent += sent
        return sent

    def work(self) -> None:
        """Attack, and end the connections."""
        try:
            self.attack()
        finally:
            self.context.raw.destroy(linger=0)
