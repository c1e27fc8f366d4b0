"""Reads which keys are authorised while the learner runs, and ends the connections of revoked ones."""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog

from common.keys import curve
from common.keys.curve import ZapHandler
from common.keys.files import KeyDirectory, KeysError
from common.protocol.sockets import Context

log = structlog.get_logger()

_READ_SECONDS = 1.0
_HANDSHAKE_READ_SECONDS = 0.1  # while a handshake waits, so that a key that was just added works at once


class SessionAuthenticator:
    """Decides which keys may connect. Owned by the network thread, as are the sockets of its ZAP handler."""

    def __init__(self, context: Context, keys: KeyDirectory) -> None:
        """Read the key directory. Raises KeysError if it authorises no key."""
        self._keys = keys
        self.zap_handler = ZapHandler(context.raw, keys.pair)
        self._endpoints: list[str] = []
        self._warnings: list[str] = []  # of the last reading, so that each is logged once
        self._read_at = time.monotonic()
        self._authorise(*keys.authorised())
        log.info("keys_read", actors=sorted(self.zap_handler.authorised.values()))

    @property
    def authorised(self) -> Mapping[str, str]:
        """The names of the authorised keys by public key."""
        return self.zap_handler.authorised

    def verify_access_control(self, endpoints: list[str]) -> None:
        """Test that the bound endpoints refuse unknown clients.

        Raises:
            AccessControlError: an endpoint accepts them.
        """
        self._endpoints = endpoints
        self.zap_handler.verify_access_control(endpoints)

    def tick(self, now: float) -> bool:
        """Answer handshakes; read the authorised keys each second, and more often while a handshake waits.

        Returns:
            Whether keys were revoked. If so, every TCP connection is shut down; authorised peers reconnect
            and send again what was in flight.
        """
        asked = self.zap_handler.request_pending()
        revoked: list[str] = []
        if now - self._read_at > (_HANDSHAKE_READ_SECONDS if asked else _READ_SECONDS):
            self._read_at = now
            try:
                revoked = self._authorise(*self._keys.authorised(self.authorised))
            except KeysError as error:  # a volume that is unavailable for a moment must not end the run
                self._log_warnings([str(error)])
        if asked:
            self.zap_handler.answer()
        if revoked:
            count = curve.drop_connections(self._endpoints)
            log.warning("keys_revoked", actors=sorted(revoked), connections_dropped=count)
        return bool(revoked)

    def _authorise(self, names: dict[str, str], warnings: list[str]) -> list[str]:
        """Replace the authorised keys; return the names of those that were revoked."""
        self._log_warnings(warnings)
        revoked = [name for key, name in self.authorised.items() if key not in names]
        self.zap_handler.authorised = names
        return revoked

    def _log_warnings(self, warnings: list[str]) -> None:
        for warning in warnings:
            if warning not in self._warnings:
                log.warning("key_file_refused", text=warning)
        self._warnings = warnings
