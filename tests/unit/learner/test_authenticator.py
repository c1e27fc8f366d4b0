"""Which keys are authorised while a learner runs and its key files change."""

from __future__ import annotations

import time
from pathlib import Path

from common.keys import files
from common.keys.files import KeyDirectory
from common.protocol.sockets import Context
from learner.server.authenticator import SessionAuthenticator


def test_only_the_absence_of_a_key_file_revokes_its_key(tmp_path: Path) -> None:
    files.initialise(tmp_path)
    for name in ("alice", "bob"):
        files.add(tmp_path, name)
    file = tmp_path / "authorised" / "bob.json"
    whole, now = file.read_bytes(), time.monotonic()
    with Context() as context:
        authenticator = SessionAuthenticator(context, KeyDirectory.open(tmp_path))
        for number, content in enumerate(
            (b"", whole[:50], whole), start=1
        ):  # an administrator copies the file
            file.write_bytes(content)
            assert not authenticator.tick(now + 10 * number)
            assert sorted(authenticator.authorised.values()) == ["alice", "bob"]
        file.unlink()
        authenticator.tick(now + 40)
        assert list(authenticator.authorised.values()) == ["alice"]
        authenticator.zap_handler.close()


def test_a_revoked_key_is_not_authorised_a_second_later_and_its_sessions_end(tmp_path: Path) -> None:
    """The network thread ends the sessions of a revoked key when `tick` returns True."""
    files.initialise(tmp_path)
    for name in ("alice", "bob"):
        files.add(tmp_path, name)
    with Context() as context:
        authenticator = SessionAuthenticator(context, KeyDirectory.open(tmp_path))
        now = time.monotonic()
        files.revoke(tmp_path, "bob")
        assert authenticator.tick(now + 1.01)
        assert list(authenticator.authorised.values()) == ["alice"]
        assert not authenticator.tick(now + 2.02)
        authenticator.zap_handler.close()
