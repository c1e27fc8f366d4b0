"""The actor's side of the protocol, over a real socket."""

from __future__ import annotations

import time
from pathlib import Path

from actor.session import Session
from common.parent import Parent
from common.transport import Client, Context


def test_who_was_never_welcomed_leaves_without_waiting(tmp_path: Path) -> None:
    """Ctrl-C where the learner's address is wrong."""
    with Context() as context:
        session = Session(lambda: Client(context, f"ipc://{tmp_path}/nobody", 1 << 16), Parent())
        assert not session.join(0.2)
        start = time.monotonic()
        assert session.leave()
        assert time.monotonic() - start < 1.0
        session.close()
