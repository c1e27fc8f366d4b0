"""The learner's keys in use: which are authorised now, and what follows when one is revoked."""

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
_ASKED_SECONDS = 0.1  # a key that was just added may be used at once


class SessionAuthenticator:
    """Owned by the network thread, like the sockets that its gate guards."""

    def __init__(self, context: Context, keys: KeyDirectory) -> None:
        """Raises KeysError if nobody can be authorised."""
        self._keys = keys
        self.gate = ZapHandler(context.raw, keys.pair)
        self._endpoints: list[str] = []
        self._complaints: list[str] = []
        self._read_at = time.monotonic()
        self._admit(*keys.authorised())
        log.info("keys_read", actors=sorted(self.gate.admitted.values()))

    def verify_access_control(self, endpoints: list[str]) -> None:
        """Show that the bound endpoints refuse strangers.

        Raises:
            AccessControlError: they do not.
        """
        self._endpoints = endpoints
        self.gate.verify_access_control(endpoints)

    @property
    def authorised(self) -> Mapping[str, str]:
        """Names by public key."""
        return self.gate.admitted

    def tick(self, now: float) -> bool:
        """Answer handshakes; each second, and before an answer, read which keys are authorised.

        Returns:
            Whether keys were revoked. Every TCP connection is cut then: authorised peers reconnect,
            and the protocol sends again what was under way.
        """
        asked = self.gate.request_pending()
        gone: list[str] = []
        if now - self._read_at > (_ASKED_SECONDS if asked else _READ_SECONDS):
            self._read_at = now
            try:
                gone = self._admit(*self._keys.authorised(self.gate.admitted))
            except KeysError as error:  # a volume that is away for a moment ends no run
                self._admit(self.gate.admitted, [str(error)])
        if asked:
            self.gate.answer()
        if gone:
            log.warning(
                "keys_revoked", actors=sorted(gone), connections_cut=curve.drop_connections(self._endpoints)
            )
        return bool(gone)

    def _admit(self, names: dict[str, str], complaints: list[str]) -> list[str]:
        """Take over who is authorised; returns the names whose keys no longer are."""
        for complaint in complaints:
            if complaint not in self._complaints:
                log.warning("key_file_refused", text=complaint)
        self._complaints = complaints
        gone = [name for key, name in self.gate.admitted.items() if key not in names]
        self.gate.admitted = names
        return gone
