"""The actor's side of the protocol, over a real socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from actor.session import Session
from common.parent import Parent
from common.transport import Client, Context


def wait(timeout_seconds: float = 0.0) -> None:
    pytest.fail(f"waits {timeout_seconds} s for an answer")


def test_who_was_never_welcomed_leaves_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C where the learner's address is wrong."""
    with Context() as context:
        session = Session(lambda: Client(context, f"ipc://{tmp_path}/nobody", 1 << 16), Parent())
        assert not session.join(0.2)
        monkeypatch.setattr(session, "poll", wait)
        assert session.leave()
        session.close()
