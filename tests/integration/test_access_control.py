"""A learner with keys serves only with a working ZAP handler."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest
import zmq

from common.addresses import host_and_port
from common.keys import curve, files
from common.keys.curve import AccessControlError, KeyPair, ZapHandler
from common.keys.files import KeyDirectory
from common.keys.handshake import read_zmtp_greeting
from common.process.lifecycle import Fatal
from learner import service
from learner.commandline import Options
from learner.presets import PRESETS
from tests.support.processes import free_port
from tests.support.serving import Served

pytestmark = pytest.mark.integration


def accept_every_client(self: ZapHandler) -> None:
    with contextlib.suppress(zmq.Again):
        while True:
            version, request_id, *_ = self.raw.recv_multipart(zmq.DONTWAIT)
            self.raw.send_multipart([version, request_id, b"200", b"", b"local", b""], zmq.DONTWAIT)


def answer_nothing(self: ZapHandler) -> None:
    pass


def no_keys(self: ZapHandler, socket: object, endpoint: str) -> None:
    pass


@pytest.mark.parametrize(
    ("method", "broken", "message"),
    [
        ("answer", accept_every_client, "with an unknown key .unknown_key., got accepted"),
        ("answer", answer_nothing, "got no answer"),
        ("configure", no_keys, "with an unknown key .unknown_key., got mechanism"),
    ],
    ids=["a handler that accepts every client", "a handler that does not answer", "a port without keys"],
)
def test_the_learner_does_not_start_if_an_unauthorised_client_is_accepted(
    served: Served, monkeypatch: pytest.MonkeyPatch, method: str, broken: object, message: str
) -> None:
    monkeypatch.setattr(ZapHandler, method, broken)
    if broken is answer_nothing:  # the other attempts get an answer
        monkeypatch.setattr(curve, "_REFUSAL_SECONDS", 1.0)
    with pytest.raises(AccessControlError, match=message):
        served.start()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(host_and_port(served.endpoint), 1).close()


def test_the_learner_does_not_start_without_a_working_handler(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libzmq accepts every client if no handler is bound to the address of the handler."""
    make = ZapHandler.__init__

    def listen_elsewhere(self: ZapHandler, context: object, pair: KeyPair) -> None:
        make(self, context, pair)  # type: ignore[arg-type]
        self.raw.unbind("inproc://zeromq.zap.01")

    monkeypatch.setattr(ZapHandler, "__init__", listen_elsewhere)
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
