"""The doctor names the step that fails, against real ports."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import doctor
from common.keys import files
from common.protocol import codec
from common.protocol.sockets import Context, RouterSocket, weights_endpoint
from tests.support.processes import free_port
from tests.support.serving import Served
from tests.support.wire_fuzz import part

pytestmark = pytest.mark.integration

STEPS = ["name", "tcp", "key", "protocol", "round trip", "throughput"]
Examine = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def examine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Examine:
    """A function that runs the command: exit code, lines, complaint."""

    def run(*argv: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr("sys.argv", ["doctor", *argv])
        capsys.readouterr()
        code = doctor.main()
        said = capsys.readouterr()
        lines = [line for line in said.out.splitlines() if line[:12].strip() in STEPS]
        return code, lines, said.err

    return run


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with contextlib.closing(Served(tmp_path)) as served:
        served.keys_of("alice")
        served.start()
        yield served


def at(served: Served) -> str:
    return served.endpoint.removeprefix("tcp://")


def test_a_sound_connection_gets_a_line_with_figures_for_each_step(served: Served, examine: Examine) -> None:
    code, lines, complaint = examine("--learner", at(served), "--keys", str(served.path / "bundle.json"))
    assert (code, complaint) == (0, "")
    assert [line[:12].strip() for line in lines] == STEPS
    assert "127.0.0.1" in lines[0] and "as alice, encrypted" in lines[2] and "generation 3" in lines[3]
    assert "ms" in lines[4] and "1.60 MB of weights" in lines[5]
    assert served.admission.registry.ledger.sessions_seen == 0, "an examination joins nothing"


def failed(result: tuple[int, list[str], str], step: str) -> tuple[int, str]:
    code, lines, complaint = result
    assert [line.split()[0] for line in lines] == STEPS[: STEPS.index(step) + 1]
    assert lines[-1].endswith("failed") and not any(line.endswith("failed") for line in lines[:-1])
    assert len(complaint.splitlines()) == 1 and complaint.startswith("doctor: expected ")
    return code, complaint


def test_a_missing_and_a_wrong_key_fail_at_the_key(served: Served, examine: Examine, tmp_path: Path) -> None:
    code, complaint = failed(examine("--learner", at(served)), "key")
    assert code == 78 and "expected --keys FILE" in complaint
    files.initialise(tmp_path / "other")
    files.add(tmp_path / "other", "eve")
    files.export(tmp_path / "other", "eve", tmp_path / "eve.json")
    code, complaint = failed(examine("--learner", at(served), "--keys", str(tmp_path / "eve.json")), "key")
    assert code == 78 and "another learner" in complaint


def test_an_unknown_name_fails_at_the_name_and_a_closed_port_at_tcp(examine: Examine) -> None:
    code, complaint = failed(examine("--learner", "nowhere.invalid:5555"), "name")
    assert code == 78 and "nowhere.invalid" in complaint
    port = free_port()
    code, complaint = failed(examine("--learner", f"127.0.0.1:{port}"), "tcp")
    assert code == 75 and f"port {port}" in complaint
    with socket.create_server(("127.0.0.1", port)):
        code, complaint = failed(examine("--learner", f"127.0.0.1:{port}"), "tcp")
    assert code == 75 and f"port {port + 1}" in complaint, "the weights port is looked at too"


def test_a_port_of_something_else_fails_at_the_key(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_STEP_SECONDS", 0.5)
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", port + 1)):
        code, complaint = failed(examine("--learner", f"127.0.0.1:{port}"), "key")
    assert code == 78 and "does not speak ZeroMQ" in complaint


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (None, 75, "it hangs, or is no learner"),
        (part(1, {}, major=codec.PROTOCOL_MAJOR + 1), 78, f"expected protocol {codec.PROTOCOL_MAJOR}, got"),
        (b"hello", 78, "expected a preamble"),
    ],
    ids=["silent", "newer", "other"],
)
def test_a_learner_that_hangs_or_speaks_another_version_fails_at_the_protocol(
    examine: Examine, monkeypatch: pytest.MonkeyPatch, answer: bytes | None, code: int, words: str
) -> None:
    if answer is None:  # TCP and the handshake keep their time
        receive = doctor._receive
        monkeypatch.setattr(doctor, "_receive", lambda client, seconds: receive(client, 1.0))
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with Context() as context:
        data, weights = RouterSocket(context, 1 << 20), RouterSocket(context, 1 << 20)
        data.bind(endpoint)
        weights.bind(weights_endpoint(endpoint))
        beat = doctor.ConnectionCheck._beat

        def answered(self: doctor.ConnectionCheck, seconds: float) -> object:
            assert self._client is not None
            send = self._client.send

            def send_and_answer(parts: list[bytes]) -> bool:
                sent = send(parts)
                if sent and answer is not None:
                    data.raw.poll(60_000)
                    for peer, _, _ in data.receive():
                        data.send(peer, [answer])
                return sent

            monkeypatch.setattr(self._client, "send", send_and_answer)
            return beat(self, seconds)

        monkeypatch.setattr(doctor.ConnectionCheck, "_beat", answered)
        got, complaint = failed(examine("--learner", endpoint.removeprefix("tcp://")), "protocol")
        data.close()
        weights.close()
    assert got == code and words in complaint


def test_bad_arguments_are_usage(examine: Examine) -> None:
    for argv in ((), ("--learner", "nonsense"), ("--learner", "ipc:///tmp/x")):
        code, lines, complaint = examine(*argv)
        assert (code, lines) == (2, []) and complaint.startswith("doctor: ")
    assert examine("--learner", "127.0.0.1:5555", "--keys", "/nowhere.json")[0] == 78
