"""The learner's bound sockets. The network thread opens, uses and closes them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Self

import structlog

from common import addresses
from common.keys.files import KeyDirectory
from common.protocol.sockets import Context, RouterSocket, Waker, wait
from learner.server.authenticator import SessionAuthenticator
from learner.server.rate_limit import BAN_SECONDS, Sender

log = structlog.get_logger()

_WEIGHTS_REQUEST_BYTES = 8_192  # the largest legal request
_CHECK_SECONDS = 0.05  # between two checks of the unread bytes of all connections, at least
_CHECK_SHARE = 0.05  # of the thread's time for them, at most; a check of 1,000 connections takes 2 ms


class Ports:
    """The data and the weights socket, each bound to one or more endpoints, and their authenticator."""

    def __init__(
        self, endpoints: Sequence[tuple[str, str]], message_bytes: int, keys: KeyDirectory | None
    ) -> None:
        """Bind every (data, weights) pair. Without `keys` every peer is accepted.

        Raises:
            BindError: an address cannot be served.
            AccessControlError: a port with keys accepts a client without an authorised key.
            KeysError: no key is authorised.
        """
        self._check_at = 0.0
        with contextlib.ExitStack() as stack:
            context = stack.enter_context(Context())
            self.authenticator = SessionAuthenticator(context, keys) if keys is not None else None
            zap_handler = None
            if self.authenticator is not None:
                zap_handler = self.authenticator.zap_handler
                stack.callback(zap_handler.close)
            self.data = RouterSocket(context, message_bytes, zap_handler)
            stack.callback(self.data.close)
            self.weights = RouterSocket(context, _WEIGHTS_REQUEST_BYTES, zap_handler)
            stack.callback(self.weights.close)
            self.endpoints: list[str] = []
            for data_endpoint, weights_endpoint in endpoints:
                self.endpoints.append(self.data.bind(data_endpoint))
                self.endpoints.append(self.weights.bind(weights_endpoint))
            self._ports = addresses.ports(self.endpoints[::2]), addresses.ports(self.endpoints[1::2])
            if self.authenticator is not None:
                self.authenticator.verify_access_control(self.endpoints)
            self._stack = stack.pop_all()

    def wait(self, waker: Waker, timeout_seconds: float) -> None:
        """Wait until a message or a handshake arrives, the waker is used, or the timeout ends."""
        sockets: list[RouterSocket] = [self.data, self.weights]
        handlers = [self.authenticator.zap_handler] if self.authenticator is not None else []
        wait((*sockets, *handlers), waker, timeout_seconds)

    def drop_floods(self, now: float) -> None:
        """Shut down and log the connections that flood a port, and refuse new ones of their address."""
        if now < self._check_at:
            return
        started = time.thread_time()
        for dropped in (*self.data.unread.drop(self._ports[0]), *self.weights.unread.drop(self._ports[1])):
            self.data.refused["flood"] += 1
            name = None
            if self.authenticator is not None:
                name = self.authenticator.authorised.get(dropped.key)
                self.authenticator.zap_handler.refused_until[dropped.address] = now + BAN_SECONDS
            log.warning(
                "connection_dropped", address=dropped.address, key=name, unread_bytes=dropped.unread_bytes
            )
        self._check_at = now + max(_CHECK_SECONDS, (time.thread_time() - started) / _CHECK_SHARE)

    def sender(self, peer: bytes, key: str) -> Sender:
        """Describe the connection of a message, with the name under which its key is authorised."""
        name = self.authenticator.authorised.get(key) if self.authenticator is not None else None
        return Sender(peer, key, name)

    @property
    def key_names(self) -> Mapping[str, str]:
        """The names of the authorised keys by public key; empty without keys."""
        return {} if self.authenticator is None else self.authenticator.authorised

    @property
    def refused(self) -> dict[str, int]:
        """Handshakes and messages without an authorised key, by reason."""
        return {reason: count + self.weights.refused[reason] for reason, count in self.data.refused.items()}

    @property
    def send_queue_full(self) -> int:
        """Messages that were not sent because the peer's queue was full."""
        return self.data.send_queue_full + self.weights.send_queue_full

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
