"""Revoked and replaced keys on real sockets: the sessions that end, and their steps."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from common.keys import curve, files
from common.protocol import messages
from tests.support.processes import wait_until
from tests.support.serving import MakePeer, Served

pytestmark = pytest.mark.integration


def test_a_revocation_ends_the_session_and_drops_its_unsent_steps(
    served: Served, make_peer: MakePeer
) -> None:
    """Other sessions lose a connection, but no step."""
    alice, bob = (make_peer(served.endpoint, served.keys_of(name)) for name in ("alice", "bob"))
    served.start()
    for peer in (alice, bob):
        peer.join()
        peer.step(100)
    wait_until(lambda: served.server.status.totals.produced == 200, "200 steps")
    files.revoke(served.path, "bob")
    wait_until(lambda: served.server.status.totals.dropped.get("revoked") == 100, "100 dropped steps")
    sentence = bob.refusal()
    assert sentence is not None and "revoked" in sentence
    assert bob.socket.receive() is None or not bob.socket.send([b"more"])
    alice.step(28)  # on the former connection or on a new one
    if alice.receive_kind(messages.Ack, 1.0) is None:
        alice.step(0)
        alice.receive_kind(messages.HelloRequired, 5.0)
        alice.join()
    wait_until(lambda: served.server.status.totals.produced == 228, "228 steps")
    totals = served.server.status.totals
    assert (totals.in_flight, totals.imbalance) == (128, 0)
    assert served.server.status.events["revoked"] == 1


def test_a_replaced_key_ends_the_session_of_the_old_one(served: Served, make_peer: MakePeer) -> None:
    bob = make_peer(served.endpoint, served.keys_of("bob"))
    served.start()
    bob.join()
    files.revoke(served.path, "bob")
    fresh = served.keys_of("bob")
    assert bob.refusal() is not None
    make_peer(served.endpoint, fresh).join()


def test_a_message_of_a_revoked_key_is_refused_even_on_an_open_connection(
    served: Served, make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of each message is checked again, so a connection that was not dropped helps no revoked key."""
    monkeypatch.setattr(curve, "drop_connections", lambda endpoints: 0)
    bob = make_peer(served.endpoint, served.keys_of("bob"))
    served.start()
    bob.join()
    files.revoke(served.path, "bob")
    wait_until(lambda: served.server.status.events["revoked"] == 1, "the end of the session")
    bob.step(100)
    wait_until(lambda: served.server.status.auth_refused["revoked"] >= 1, "a refused message")
    assert served.server.status.totals.produced == 0


def test_a_key_directory_that_is_absent_for_a_moment_ends_no_session(
    served: Served, make_peer: MakePeer
) -> None:
    alice = make_peer(served.endpoint, served.keys_of("alice"))
    served.start()
    alice.join()
    with capture_logs() as logged:
        (served.path / "authorised").rename(served.path / "away")
        wait_until(
            lambda: any(entry["event"] == "key_file_refused" for entry in logged),
            "a reading of the absent directory",
        )
    (served.path / "away").rename(served.path / "authorised")
    alice.step(1)
    assert alice.receive_kind(messages.Ack) is not None
    assert served.server.status.events["revoked"] == 0
