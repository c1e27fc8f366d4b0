"""The outcomes of handshakes and the greeting of a port, with real sockets on the loopback address."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import zmq

from common.keys import handshake
from common.keys.curve import ActorKeys, KeyPair, ZapHandler
from common.keys.handshake import ClientHandshake, HandshakeMonitor, Outcome, read_zmtp_greeting
from common.protocol.sockets import Context, DealerSocket, RouterSocket
from tests.support.processes import free_port, wait_until

LEARNER, ALICE = KeyPair.new(), KeyPair.new()
MESSAGE_BYTES = 1 << 16
Port = tuple[str, Callable[[], None]]  # its endpoint, and a function that answers pending handshakes


@pytest.fixture
def context() -> Iterator[Context]:
    with Context() as context:
        yield context


@pytest.fixture
def plain(context: Context) -> Iterator[Port]:
    with contextlib.closing(RouterSocket(context, MESSAGE_BYTES)) as server:
        yield server.bind("tcp://127.0.0.1:*"), lambda: None


@pytest.fixture
def guarded(context: Context) -> Iterator[Port]:
    with contextlib.closing(ZapHandler(context.raw, LEARNER)) as handler:
        handler.authorised = {ALICE.public: "alice"}
        with contextlib.closing(RouterSocket(context, MESSAGE_BYTES, handler)) as server:
            yield server.bind("tcp://127.0.0.1:*"), handler.answer


@pytest.fixture
def one_time_server() -> Iterator[Callable[[bytes], str]]:
    """A function that makes an endpoint which answers every connection with some bytes, then closes it."""
    with contextlib.ExitStack() as stack:

        def make(answer: bytes) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def serve() -> None:
                with contextlib.suppress(OSError):  # the listener is shut down
                    while True:
                        with listener.accept()[0] as connection:
                            connection.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            return f"tcp://127.0.0.1:{listener.getsockname()[1]}"

        yield make


def keys(pair: KeyPair, learner: str = LEARNER.public) -> ActorKeys:
    return ActorKeys("", learner, pair)


def first_outcome(context: Context, port: Port, keys: ActorKeys | None) -> Outcome:
    """The outcome of the first handshake that ends."""
    endpoint, answer = port
    outcomes: list[Outcome] = []
    with context.raw.socket(zmq.DEALER) as client, contextlib.closing(HandshakeMonitor(client)) as monitor:
        client.setsockopt(zmq.LINGER, 0)
        if keys is not None:
            keys.apply(client)
        client.connect(endpoint)  # after the monitor, which would miss an earlier handshake

        def ended() -> bool:
            answer()
            outcomes.extend(monitor.read())
            return bool(outcomes)

        wait_until(ended, "the end of a handshake")
    return outcomes[0]


def test_a_handshake_without_keys_succeeds_on_a_port_without_keys(context: Context, plain: Port) -> None:
    assert first_outcome(context, plain, None) == "done"


def test_a_handshake_with_an_authorised_key_succeeds(context: Context, guarded: Port) -> None:
    assert first_outcome(context, guarded, keys(ALICE)) == "done"


def test_an_unauthorised_key_is_reported_to_its_client(context: Context, guarded: Port) -> None:
    assert first_outcome(context, guarded, keys(KeyPair.new())) == "unknown_key"


def test_a_client_with_keys_detects_a_port_without_keys(context: Context, plain: Port) -> None:
    assert first_outcome(context, plain, keys(ALICE)) == "mechanism"


def test_a_client_without_keys_detects_a_port_with_keys(context: Context, guarded: Port) -> None:
    assert first_outcome(context, guarded, None) == "mechanism"


def test_a_closed_connection_is_a_hang_up(context: Context, one_time_server: Callable[[bytes], str]) -> None:
    """A port forwarder does this while its target is down."""
    endpoint = one_time_server(b"")
    assert first_outcome(context, (endpoint, lambda: None), None) == "hangup"


def test_a_server_reads_the_outcomes_of_several_clients(context: Context) -> None:
    outcomes: list[Outcome] = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(contextlib.closing(RouterSocket(context, MESSAGE_BYTES)))
        monitor = stack.enter_context(contextlib.closing(HandshakeMonitor(server.raw)))
        endpoint = server.bind("tcp://127.0.0.1:*")
        for _ in range(3):
            stack.enter_context(contextlib.closing(DealerSocket(context, endpoint, MESSAGE_BYTES)))

        def complete() -> bool:
            outcomes.extend(monitor.read())
            return len(outcomes) >= 3

        wait_until(complete, "three handshakes")
        assert outcomes == ["done"] * 3 and list(monitor.read()) == []


def test_the_greeting_names_the_mechanism_of_a_port(plain: Port, guarded: Port) -> None:
    assert read_zmtp_greeting(plain[0]) == "NULL"
    assert read_zmtp_greeting(guarded[0]) == "CURVE"


def test_a_port_that_does_not_speak_zmtp_has_no_greeting(one_time_server: Callable[[bytes], str]) -> None:
    """Nothing listens, the server closes, it sends too few or other bytes, or the endpoint is not TCP."""
    assert read_zmtp_greeting(f"tcp://127.0.0.1:{free_port()}") is None
    for answer in (b"", b"\xff" + bytes(8) + b"\x7f\x03", b"SSH-2.0-server\r\n" * 4):
        assert read_zmtp_greeting(one_time_server(answer)) is None
    assert read_zmtp_greeting("ipc:///run/data") is None


def test_a_greeting_in_pieces_is_read_whole(one_time_server: Callable[[bytes], str]) -> None:
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
    assert read_zmtp_greeting(one_time_server(greeting)) == "CURVE"


@pytest.mark.parametrize(
    ("port", "client_keys", "expected"),
    [
        ("guarded", keys(KeyPair.new()), "was revoked or never added"),
        ("guarded", None, "expected --keys FILE, got none"),
        ("guarded", keys(ALICE, KeyPair.new().public), "the key file is of another learner"),
        ("plain", keys(ALICE), "got one without keys"),
    ],
    ids=["an unknown key", "no key", "another learner's key", "a learner without keys"],
)
def test_a_refused_client_knows_the_reason(
    context: Context,
    request: pytest.FixtureRequest,
    port: str,
    client_keys: ActorKeys | None,
    expected: str,
) -> None:
    endpoint, answer = request.getfixturevalue(port)
    sentences: list[str] = []
    with contextlib.closing(
        DealerSocket(context, endpoint, MESSAGE_BYTES, client_keys, watched=True)
    ) as client:

        def refused() -> bool:
            answer()
            client.send([b"hello"])
            sentences.extend(sentence for sentence in [client.refusal()] if sentence is not None)
            return bool(sentences)

        wait_until(refused, "a refusal")
        assert not client.handshake_done
    assert expected in sentences[0] and endpoint in sentences[0] and "\n" not in sentences[0]


def test_an_accepted_client_is_not_refused(context: Context, guarded: Port) -> None:
    endpoint, answer = guarded
    with contextlib.closing(
        DealerSocket(context, endpoint, MESSAGE_BYTES, keys(ALICE), watched=True)
    ) as client:

        def accepted() -> bool:
            answer()
            assert client.refusal() is None
            return client.handshake_done

        wait_until(accepted, "a handshake")


@pytest.mark.parametrize("known", [False, True], ids=["a first connection", "a known learner"])
def test_hang_ups_are_a_refusal_only_after_the_port_spoke_and_of_an_unknown_learner(
    context: Context, plain: Port, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """A port forwarder closes connections until the learner has started; then the client may be accepted."""
    outcomes = iter([["hangup"]] * 6)
    monkeypatch.setattr(HandshakeMonitor, "read", lambda monitor: next(outcomes))
    monkeypatch.setattr(handshake, "read_zmtp_greeting", lambda endpoint: "CURVE")
    with contextlib.closing(DealerSocket(context, plain[0], MESSAGE_BYTES)) as dealer:
        client = ClientHandshake(dealer.raw, plain[0], keyed=True)
        refused = [client.refusal(known) is not None for _ in range(6)]
        client.close()
    assert refused == [False] * 5 + [not known]
