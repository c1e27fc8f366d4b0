"""Keys on real sockets: authorised clients, refused clients with the reason, and revocations."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.keys import curve, files
from common.keys.curve import AccessControlError, ActorKeys, KeyPair, ZapHandler
from common.keys.files import KeyDirectory, read_key_file
from common.keys.handshake import read_zmtp_greeting
from common.process.lifecycle import Fatal
from common.protocol import messages
from common.protocol.sockets import Context
from learner import service
from learner.commandline import Options
from learner.presets import PRESETS
from tests.support.processes import Command, Run, free_port, wait_until
from tests.support.serving import Peer, Served

pytestmark = pytest.mark.integration


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with contextlib.closing(Served(tmp_path)) as served:
        yield served


Meet = Callable[..., Peer]


@pytest.fixture
def meet() -> Iterator[Meet]:
    """A function that makes peers; they are closed with the test."""
    with Context() as context, contextlib.ExitStack() as stack:

        def make(endpoint: str, keys: ActorKeys | None = None) -> Peer:
            return stack.enter_context(contextlib.closing(Peer(context, endpoint, keys)))

        yield make


def port_of(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def test_an_authorised_key_is_accepted_and_local_sockets_need_none(served: Served, meet: Meet) -> None:
    alice = served.keys_of("alice")
    served.start()
    for peer in (meet(served.endpoint, alice), meet(served.local)):
        peer.join()
    wait_until(lambda: served.server.status.actors == 2, "two sessions")


def test_a_key_that_is_added_while_the_learner_runs_is_accepted(served: Served, meet: Meet) -> None:
    served.start()
    late = served.keys_of("late")
    time.sleep(0.2)  # less than the start of an actor takes
    meet(served.endpoint, late).join()


def test_each_kind_of_unauthorised_client_is_refused_with_the_reason(served: Served, meet: Meet) -> None:
    """Unknown key, no key, another learner's key file; the learner counts them."""
    alice = served.keys_of("alice")
    served.start()
    unknown = meet(served.endpoint, replace(alice, pair=KeyPair.new())).refusal()
    assert unknown is not None and "revoked or never added" in unknown
    keyless = meet(served.endpoint).refusal()
    assert keyless is not None and "expected --keys FILE, got none" in keyless
    other = meet(served.endpoint, replace(alice, learner=KeyPair.new().public)).refusal()
    assert other is not None and "the key file is of another learner" in other

    def counted(*reasons: str) -> bool:
        return sum(served.server.status.auth_refused.get(reason, 0) for reason in reasons) >= 3

    # Two attempts are the learner's own, at both ports. A client without keys may detect the difference
    # first, and hang up.
    wait_until(lambda: counted("unknown_key"), "refusals of unknown keys")
    wait_until(lambda: counted("mechanism", "hangup"), "refusals without a key")
    wait_until(lambda: counted("garbled"), "refusals of another learner's key")
    assert served.server.status.sessions_seen == 0


def test_an_actor_with_keys_refuses_a_learner_without_keys(tmp_path: Path, meet: Meet) -> None:
    with contextlib.closing(Served(tmp_path, keyed=False)) as served:
        alice = served.keys_of("alice")
        served.start()
        sentence = meet(served.endpoint, alice).refusal()
        assert sentence is not None and "got one without keys" in sentence
        meet(served.endpoint).join()


@pytest.mark.parametrize("keyed", [True, False])
def test_an_absent_learner_and_a_proxy_without_a_learner_are_no_refusal(meet: Meet, keyed: bool) -> None:
    """A closed port; and a port that accepts and hangs up, as a forwarder does while its target is down."""
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
            away = meet(f"tcp://127.0.0.1:{forwarder.getsockname()[1]}", alice)
            absent = meet(f"tcp://127.0.0.1:{free_port()}", alice)
            wait_until(lambda: away.refusal(0.1) is not None or len(accepted) >= 3, "three connections")
            assert away.refusal(0.5) is None and absent.refusal(0.5) is None
        finally:
            done.set()
            thread.join()


def test_a_revocation_ends_the_session_and_drops_its_unsent_steps(served: Served, meet: Meet) -> None:
    """Other sessions lose a connection, but no step."""
    alice, bob = (meet(served.endpoint, served.keys_of(name)) for name in ("alice", "bob"))
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
    alice.step(28)  # on whatever connection
    if alice.receive_kind(messages.Ack, 1.0) is None:
        alice.step(0)
        alice.receive_kind(messages.HelloRequired, 5.0)
        alice.join()
    wait_until(lambda: served.server.status.totals.produced == 228, "228 steps")
    totals = served.server.status.totals
    assert (totals.in_flight, totals.imbalance) == (128, 0)
    assert served.server.status.events["revoked"] == 1


def test_a_replaced_key_ends_the_session_of_the_old_one(served: Served, meet: Meet) -> None:
    bob = meet(served.endpoint, served.keys_of("bob"))
    served.start()
    bob.join()
    files.revoke(served.path, "bob")
    fresh = served.keys_of("bob")
    assert bob.refusal() is not None
    meet(served.endpoint, fresh).join()


def test_a_message_of_a_revoked_key_is_refused_even_on_an_open_connection(
    served: Served, meet: Meet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without dropped connections: the key of each message is checked again."""
    monkeypatch.setattr(curve, "drop_connections", lambda endpoints: 0)
    bob = meet(served.endpoint, served.keys_of("bob"))
    served.start()
    bob.join()
    files.revoke(served.path, "bob")
    wait_until(lambda: served.server.status.events["revoked"] == 1, "the end of the session")
    bob.step(100)
    wait_until(lambda: served.server.status.auth_refused["revoked"] >= 1, "a refused message")
    assert served.server.status.totals.produced == 0


def test_a_key_directory_that_is_absent_for_a_moment_ends_no_session(served: Served, meet: Meet) -> None:
    alice = meet(served.endpoint, served.keys_of("alice"))
    served.start()
    alice.join()
    (served.path / "authorised").rename(served.path / "away")
    time.sleep(1.5)
    (served.path / "away").rename(served.path / "authorised")
    alice.step(1)
    assert alice.receive_kind(messages.Ack) is not None
    assert served.server.status.events["revoked"] == 0


def open_to_all(self: ZapHandler, domain: bytes, mechanism: bytes, credentials: list[bytes]) -> bytes:
    return b"local"


def answer_nothing(self: ZapHandler) -> None:
    pass


def no_keys(self: ZapHandler, socket: object, endpoint: str) -> None:
    pass


@pytest.mark.parametrize(
    ("method", "broken", "message"),
    [
        ("_user_id", open_to_all, "with an unknown key .unknown_key., got accepted"),
        ("answer", answer_nothing, "got no answer"),
        ("guard", no_keys, "with an unknown key .unknown_key., got mechanism"),
    ],
    ids=["a handler that accepts every client", "a handler that does not answer", "a port without keys"],
)
def test_the_learner_does_not_start_if_an_unauthorised_client_is_accepted(
    served: Served, monkeypatch: pytest.MonkeyPatch, method: str, broken: object, message: str
) -> None:
    monkeypatch.setattr(ZapHandler, method, broken)
    if method == "answer":  # the others get an answer
        monkeypatch.setattr(curve, "_REFUSAL_SECONDS", 1.0)
    with pytest.raises(AccessControlError, match=message):
        served.start()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port_of(served.endpoint)), 1).close()


def test_the_learner_does_not_start_without_a_working_handler(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libzmq accepts every client if no handler is bound to the address of the handler."""
    make = ZapHandler.__init__

    def elsewhere(self: ZapHandler, context: object, pair: KeyPair) -> None:
        make(self, context, pair)  # type: ignore[arg-type]
        self.raw.unbind("inproc://zeromq.zap.01")

    monkeypatch.setattr(ZapHandler, "__init__", elsewhere)
    with pytest.raises(AccessControlError, match="got accepted"):
        served.start()


def test_a_handler_that_fails_while_serving_closes_the_ports_and_ends_the_learner_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.initialise(tmp_path / "keys")
    port = free_port()
    options = Options(
        tmp_path / "run",
        f"tcp://127.0.0.1:{port}",
        0,
        False,
        "cpu",
        KeyDirectory.open(tmp_path / "keys"),
    )
    verify = ZapHandler.verify_access_control

    def verify_then_close(self: ZapHandler, endpoints: list[str]) -> None:
        verify(self, endpoints)
        self.raw.close()

    monkeypatch.setattr(ZapHandler, "verify_access_control", verify_then_close)
    with pytest.raises(Fatal, match="the network thread failed with") as raised:
        service.run(PRESETS["cartpole"], options, threading.Event())
    assert raised.value.code == 70
    assert read_zmtp_greeting(f"tcp://127.0.0.1:{port}") is None


def key_file(path: Path, name: str, out: Path) -> str:
    files.initialise(path)
    files.add(path, name)
    files.export(path, name, out)
    return str(out)


def test_authorised_actors_train_and_unauthorised_and_revoked_ones_exit_with_the_reason(
    tmp_path: Path,
) -> None:
    """Real processes. Secrets appear in no log, no summary, no configuration."""
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
        said = [line for line in actors["eve"].err.read_text().splitlines() if not line.startswith("{")]
        assert len(said) == 1 and "another learner" in said[0]
        wait_until(lambda: run.metric("outrider_fleet_actors", learner) == 3, "three sessions")
        files.revoke(tmp_path / "keys", "bob")
        revoked = 'outrider_fleet_sessions_total{event="revoked"}'
        wait_until(lambda: run.metric(revoked, learner) == 1, "bob's end")
        assert actors["bob"].finish() == 78
        assert "the key was revoked" in actors["bob"].err.read_text()
        steps = int(run.metric("outrider_run_env_steps", learner))
        wait_until(lambda: run.steps_reached(learner, steps + 512), "training without bob")
        learner.process.send_signal(signal.SIGTERM)
        assert learner.finish() == 0, learner.err.read_text()[-2000:]
    summary = run.summary()
    assert (summary["imbalance_steps"], summary["in_flight_steps"], summary["actors_seen"]) == (0, 0, 3)
    greeted = [json.loads(line) for line in learner.err.read_text().splitlines() if '"hello"' in line]
    assert {line["key"] for line in greeted} == {"alice", "bob"}
    secrets = [read_key_file(Path(path)).pair.secret for path in (alice, eve)]
    secrets.append(KeyDirectory.open(tmp_path / "keys").pair.secret)
    written = [*tmp_path.glob("*.err"), *tmp_path.glob("*.out"), *run.path.rglob("*")]
    for path in written:
        assert path.is_dir() or not any(secret.encode() in path.read_bytes() for secret in secrets), path
