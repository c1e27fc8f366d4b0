"""Keys on real sockets and in real processes: accepted clients, and refused clients with the reason."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from common.keys import files
from common.keys.curve import ActorKeys, KeyPair
from common.keys.files import KeyDirectory, read_key_file
from common.process.lifecycle import EXIT_TEMPORARY
from learner.server import authenticator
from tests.support.processes import Command, Run, free_port, wait_until
from tests.support.serving import MakePeer, Served

pytestmark = pytest.mark.integration


def test_an_authorised_key_is_accepted_and_local_sockets_need_none(
    served: Served, make_peer: MakePeer
) -> None:
    alice = served.keys_of("alice")
    served.start()
    for peer in (make_peer(served.endpoint, alice), make_peer(served.local)):
        peer.join()
    wait_until(lambda: served.server.status.actors == 2, "two sessions")


def test_a_key_that_is_added_while_the_learner_runs_is_accepted(
    served: Served, make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learner reads the key directory before it answers a handshake."""
    monkeypatch.setattr(authenticator, "_HANDSHAKE_READ_SECONDS", 0.0)
    served.start()
    late = served.keys_of("late")
    make_peer(served.endpoint, late).join()


def test_each_kind_of_unauthorised_client_is_refused_with_the_reason(
    served: Served, make_peer: MakePeer
) -> None:
    """The key is unknown, absent, or from the key file of another learner; the learner counts each kind."""
    alice = served.keys_of("alice")
    served.start()
    unknown = make_peer(served.endpoint, replace(alice, pair=KeyPair.new())).refusal()
    assert unknown is not None and "revoked or never added" in unknown
    keyless = make_peer(served.endpoint).refusal()
    assert keyless is not None and "expected --keys FILE, got none" in keyless
    other = make_peer(served.endpoint, replace(alice, learner=KeyPair.new().public)).refusal()
    assert other is not None and "the key file is of another learner" in other

    def counted(*reasons: str) -> bool:
        return sum(served.server.status.auth_refused.get(reason, 0) for reason in reasons) >= 3

    # Two attempts are the learner's own, at both ports. A client without keys may detect the difference
    # first, and hang up.
    wait_until(lambda: counted("unknown_key"), "refusals of unknown keys")
    wait_until(lambda: counted("mechanism", "hangup"), "refusals without a key")
    wait_until(lambda: counted("garbled"), "refusals of another learner's key")
    assert served.server.status.sessions_seen == 0


def test_an_actor_with_keys_refuses_a_learner_without_keys(tmp_path: Path, make_peer: MakePeer) -> None:
    with contextlib.closing(Served(tmp_path, keyed=False)) as served:
        alice = served.keys_of("alice")
        served.start()
        sentence = make_peer(served.endpoint, alice).refusal()
        assert sentence is not None and "got one without keys" in sentence
        make_peer(served.endpoint).join()


@pytest.mark.parametrize("keyed", [True, False])
def test_an_absent_learner_and_a_proxy_without_a_learner_are_no_refusal(
    make_peer: MakePeer, keyed: bool
) -> None:
    """The port is closed; or it accepts and hangs up, as a forwarder does while its target is down."""
    alice = ActorKeys("alice", KeyPair.new().public, KeyPair.new()) if keyed else None
    with socket.create_server(("127.0.0.1", 0)) as forwarder:
        forwarder.settimeout(0.1)
        done = threading.Event()
        accepted = []

        def hang_up() -> None:
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, _ = forwarder.accept()
                    connection.close()
                    accepted.append(1)

        thread = threading.Thread(target=hang_up)
        thread.start()
        try:
            forwarded = make_peer(f"tcp://127.0.0.1:{forwarder.getsockname()[1]}", alice)
            absent = make_peer(f"tcp://127.0.0.1:{free_port()}", alice)
            wait_until(lambda: forwarded.refusal(0.1) is not None or len(accepted) >= 3, "three connections")
            assert forwarded.refusal(0.5) is None and absent.refusal(0.5) is None
        finally:
            done.set()
            thread.join()


def key_file(path: Path, name: str, out: Path) -> str:
    files.initialise(path)
    files.add(path, name)
    files.export(path, name, out)
    return str(out)


def test_authorised_actors_train_and_unauthorised_and_revoked_ones_exit_with_the_reason(
    tmp_path: Path,
) -> None:
    """Secrets appear in no file of the run and in no output."""
    alice, bob = (key_file(tmp_path / "keys", name, tmp_path / f"{name}.json") for name in ("alice", "bob"))
    eve = key_file(tmp_path / "others", "eve", tmp_path / "eve.json")
    port = free_port()
    run = Run(tmp_path, port, ("cartpole", "--total-steps", "1000000", "--keys", str(tmp_path / "keys")))

    def actor(name: str, *more: str) -> Command:
        return Command.start(tmp_path, name, "actor", "--learner", f"127.0.0.1:{port}", *more)

    with run.learner() as learner, contextlib.ExitStack() as stack:
        wait_until(lambda: "learner_serving" in learner.err.read_text(), "the sockets")
        actors = {
            "alice": actor("alice", "--keys", alice, "--procs", "2"),
            "bob": actor("bob", "--keys", bob),
            "eve": actor("eve", "--keys", eve),
        }
        for command in actors.values():
            stack.callback(command.end)
        assert actors["eve"].finish() == 78
        sentences = [line for line in actors["eve"].err.read_text().splitlines() if not line.startswith("{")]
        assert len(sentences) == 1 and "another learner" in sentences[0]
        wait_until(lambda: run.metric("outrider_fleet_actors", learner) == 3, "three sessions")
        files.revoke(tmp_path / "keys", "bob")
        revoked = 'outrider_fleet_sessions_total{event="revoked"}'
        wait_until(lambda: run.metric(revoked, learner) == 1, "bob's end")
        assert actors["bob"].finish() == 78
        assert "the key was revoked" in actors["bob"].err.read_text()
        steps = int(run.metric("outrider_run_env_steps", learner))
        wait_until(lambda: run.steps_reached(learner, steps + 512), "training without bob")
        learner.process.send_signal(signal.SIGTERM)
        assert learner.finish() == EXIT_TEMPORARY, learner.err.read_text()[-2000:]
    summary = run.summary()
    assert (summary["imbalance_steps"], summary["in_flight_steps"], summary["actors_seen"]) == (0, 0, 3)
    hellos = [json.loads(line) for line in learner.err.read_text().splitlines() if '"hello"' in line]
    assert {line["key"] for line in hellos} == {"alice", "bob"}
    secrets = [read_key_file(Path(path)).pair.secret for path in (alice, eve)]
    secrets.append(KeyDirectory.open(tmp_path / "keys").pair.secret)
    written = [*tmp_path.glob("*.err"), *tmp_path.glob("*.out"), *run.path.rglob("*")]
    for path in written:
        assert path.is_dir() or not any(secret.encode() in path.read_bytes() for secret in secrets), path
