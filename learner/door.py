"""The learner's keys at work: who is let in now, whose session is whose, and what a revocation does."""

from __future__ import annotations

import time

import structlog

from common import gate
from common.gate import Gate
from common.keys import KeyDirectory, KeysError
from common.transport import Context

log = structlog.get_logger()

_READ_SECONDS = 1.0
_ASKED_SECONDS = 0.1  # a key that was just added may be used at once


class Door:
    """Owned by the network thread, like the sockets that its gate guards."""

    def __init__(self, context: Context, keys: KeyDirectory) -> None:
        """Raises KeysError if nobody can be authorised."""
        self._keys = keys
        self.gate = Gate(context.raw, keys.pair)
        self._endpoints: list[str] = []
        self._owners: dict[bytes, str] = {}  # public keys by session
        self._complaints: list[str] = []
        self._read_at = time.monotonic()
        self._admit(*keys.authorised())
        log.info("keys_read", actors=sorted(self.gate.admitted.values()))

    def prove(self, endpoints: list[str]) -> None:
        """Show that the bound endpoints refuse strangers.

        Raises:
            GateError: they do not.
        """
        self._endpoints = endpoints
        self.gate.prove(endpoints)

    def entered(self, sid: bytes, key: str) -> str | None:
        """Note whose a session is; returns the name of the key, None on this machine's own sockets."""
        if key:
            self._owners[sid] = key
        return self.gate.admitted.get(key)

    def tick(self, now: float) -> list[bytes]:
        """Answer handshakes; each second, and before an answer, read who is authorised.

        Returns:
            The sessions whose key was revoked. Every TCP connection is cut then: those that may
            connect anew, and the protocol sends again what was under way.
        """
        asked = self.gate.asked()
        gone: list[str] = []
        if now - self._read_at > (_ASKED_SECONDS if asked else _READ_SECONDS):
            self._read_at = now
            try:
                gone = self._admit(*self._keys.authorised(self.gate.admitted))
            except KeysError as error:  # a volume that is away for a moment ends no run
                self._admit(self.gate.admitted, [str(error)])
        if asked:
            self.gate.answer()
        if not gone:
            return []
        log.warning("keys_revoked", actors=sorted(gone), connections_cut=gate.cut(self._endpoints))
        revoked = [sid for sid, key in self._owners.items() if key not in self.gate.admitted]
        for sid in revoked:
            del self._owners[sid]
        return revoked

    def _admit(self, names: dict[str, str], complaints: list[str]) -> list[str]:
        """Take over who is authorised; returns the names whose keys no longer are."""
        for complaint in complaints:
            if complaint not in self._complaints:
                log.warning("key_file_refused", text=complaint)
        self._complaints = complaints
        gone = [name for key, name in self.gate.admitted.items() if key not in names]
        self.gate.admitted = names
        return gone
