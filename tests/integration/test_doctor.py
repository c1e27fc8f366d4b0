"""`common.doctor` reports the step that fails, with real ports."""

from __future__ import annotations

import contextlib
import socket
import threading
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
Check = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Check:
    """A function that runs the command and returns its exit code, the lines of the steps and stderr."""

    def run(*argv: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr("sys.argv", ["doctor", *argv])
        capsys.readouterr()
        code = doctor.main()
        captured = capsys.readouterr()
        lines = [line for line in captured.out.splitlines() if line[:12].strip() in STEPS]
        return code, lines, captured.err

    return run


@pytest.fixture
def served(served: Served) -> Served:
    """A started server that authorises alice."""
    served.keys_of("alice")
    served.start()
    return served


def address_of(served: Served) -> str:
    return served.endpoint.removeprefix("tcp://")


def test_a_working_connection_has_a_line_with_figures_for_each_step(served: Served, check: Check) -> None:
    code, lines, error = check("--learner", address_of(served), "--keys", str(served.path / "bundle.json"))
    assert (code, error) == (0, "")
    assert [line[:12].strip() for line in lines] == STEPS
    assert "127.0.0.1" in lines[0] and "as alice, encrypted" in lines[2] and "generation 3" in lines[3]
    assert "ms" in lines[4] and "1.60 MB of weights" in lines[5]
    assert served.server.status.sessions_seen == 0, "the check joins no session"


def failed(result: tuple[int, list[str], str], step: str) -> tuple[int, str]:
    code, lines, error = result
    assert [line.split()[0] for line in lines] == STEPS[: STEPS.index(step) + 1]
    assert lines[-1].endswith("failed") and not any(line.endswith("failed") for line in lines[:-1])
    assert len(error.splitlines()) == 1 and error.startswith("doctor: expected ")
    return code, error


@contextlib.contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """Two ports that complete handshakes; the data port answers every message with `answer`, or never."""
    endpoint, done = f"tcp://127.0.0.1:{free_port()}", threading.Event()
    with Context() as context, contextlib.ExitStack() as stack:
        data, weights = (
            stack.enter_context(contextlib.closing(RouterSocket(context, 1 << 20))) for _ in range(2)
        )
        data.bind(endpoint)
        weights.bind(weights_endpoint(endpoint))

        def serve() -> None:
            while not done.is_set():
                data.raw.poll(50)
                for peer, *_ in data.receive():
                    if answer is not None:
                        data.send(peer, [answer])

        thread = threading.Thread(target=serve)
        thread.start()
        stack.callback(thread.join)
        stack.callback(done.set)
        yield endpoint


def test_a_missing_and_a_wrong_key_fail_at_the_key(served: Served, check: Check, tmp_path: Path) -> None:
    code, error = failed(check("--learner", address_of(served)), "key")
    assert code == 78 and "expected --keys FILE" in error
    files.initialise(tmp_path / "other")
    files.add(tmp_path / "other", "eve")
    files.export(tmp_path / "other", "eve", tmp_path / "eve.json")
    code, error = failed(check("--learner", address_of(served), "--keys", str(tmp_path / "eve.json")), "key")
    assert code == 78 and "another learner" in error


def test_an_unknown_name_fails_at_the_name_and_a_closed_port_at_tcp(check: Check) -> None:
    code, error = failed(check("--learner", "nowhere.invalid:5555"), "name")
    assert code == 78 and "nowhere.invalid" in error
    port = free_port()
    code, error = failed(check("--learner", f"127.0.0.1:{port}"), "tcp")
    assert code == 75 and f"port {port}" in error
    with socket.create_server(("127.0.0.1", port)):
        code, error = failed(check("--learner", f"127.0.0.1:{port}"), "tcp")
    assert code == 75 and f"port {port + 1}" in error, "the weights port is checked, too"


def test_a_port_of_another_program_fails_at_the_key(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_STEP_SECONDS", 0.5)
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", port + 1)):
        code, error = failed(check("--learner", f"127.0.0.1:{port}"), "key")
    assert code == 78 and "does not speak ZeroMQ" in error


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (None, 75, "it hangs, or is not a learner"),
        (part(1, {}, major=codec.PROTOCOL_MAJOR + 1), 78, f"expected protocol {codec.PROTOCOL_MAJOR}, got"),
        (b"hello", 78, "expected a preamble"),
    ],
    ids=["silent", "newer", "other"],
)
def test_a_learner_that_hangs_or_speaks_another_version_fails_at_the_protocol(
    check: Check, monkeypatch: pytest.MonkeyPatch, answer: bytes | None, code: int, words: str
) -> None:
    if answer is None:  # TCP and the handshakes keep their timeouts
        monkeypatch.setattr(doctor, "_ANSWER_SECONDS", 1.0)
    with answering(answer) as endpoint:
        got, error = failed(check("--learner", endpoint.removeprefix("tcp://")), "protocol")
    assert got == code and words in error


def test_bad_arguments_have_the_exit_code_of_usage(check: Check) -> None:
    for argv in ((), ("--learner", "nonsense"), ("--learner", "ipc:///tmp/x")):
        code, lines, error = check(*argv)
        assert (code, lines) == (2, []) and error.startswith("doctor: ")
    assert check("--learner", "127.0.0.1:5555", "--keys", "/nowhere.json")[0] == 78
