"""Names and addresses of engines, and the table of their status."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import requests
from docker.errors import DockerException

from common.process.lifecycle import EXIT_TEMPORARY
from deploy.machines import __main__ as commandline
from deploy.machines import engines, status
from deploy.machines.engines import Engine
from deploy.machines.errors import MachineError
from deploy.machines.keys import last_line
from deploy.machines.machine import identity
from deploy.machines.status import ContainerStatus
from tests.support.fake_engine import NEW, OLD, image_attributes

M1, M2, M3 = (Engine(name, f"tcp://{name}:2375") for name in ("m1", "m2", "m3"))
PLAYING = ContainerStatus("m1", "5f6bb42", "healthy", "auto", 0, False, 187.5, 300 * 2**20)


@pytest.mark.parametrize(
    ("text", "engine"),
    [
        ("ssh://ops@m1.example.org", Engine("m1-example-org", "ssh://ops@m1.example.org")),
        ("ssh://ops@M1:2222", Engine("m1", "ssh://ops@M1:2222")),
        ("tcp://10.0.0.7:2375", Engine("10-0-0-7", "tcp://10.0.0.7:2375")),
        ("big_box", Engine("big-box", "big_box")),
        ("m7=tcp://10.0.0.7:2375", Engine("m7", "tcp://10.0.0.7:2375")),
        ("m7=big_box", Engine("m7", "big_box")),
    ],
)
def test_an_engine_has_a_name_that_a_key_can_have(text: str, engine: Engine) -> None:
    assert engines.parse(text) == engine


@pytest.mark.parametrize("text", ["", "http://m1", "unix:///var/run/docker.sock", "tcp://", "m1="])
def test_another_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a Docker context, ssh://USER@HOST or tcp://HOST:PORT"):
        engines.parse(text)


def test_a_context_that_does_not_exist_is_one_sentence() -> None:
    with pytest.raises(MachineError, match="expected the name of a Docker context, got 'no-such-context'"):
        engines.connect(Engine("m1", "no-such-context"))


def test_an_engine_that_refuses_connections_is_unreachable() -> None:
    with pytest.raises(MachineError, match="is unreachable: Connection refused") as error:
        engines.connect(Engine("m1", "tcp://127.0.0.1:9"))
    assert error.value.code == EXIT_TEMPORARY


def test_the_reason_of_a_connection_error_is_its_first_cause() -> None:
    error = DockerException("Error while fetching server API version: a long text")
    error.__cause__ = requests.ConnectionError("HTTPConnectionPool: Max retries exceeded")
    error.__cause__.__cause__ = OSError(113, "No route to host")
    assert engines.reason(error) == "No route to host"
    error.__cause__ = requests.ReadTimeout("HTTPConnectionPool: Read timed out.")
    assert engines.reason(error) == "no response within 10 s"


def test_work_without_an_end_is_given_up() -> None:
    released = threading.Event()
    with pytest.raises(TimeoutError, match="no response"):
        engines.within(0.01, released.wait)
    released.set()
    assert engines.within(60, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        engines.within(60, lambda: 1 // 0)


def test_the_identity_of_an_image_is_its_content() -> None:
    """Engines may give equal images different ids."""
    new = image_attributes(NEW)
    assert identity(new) == identity({**new, "Id": "sha256:1", "RepoTags": []})
    assert identity(new) != identity(image_attributes(OLD))
    relabelled = {**new, "Config": {"Labels": {"org.opencontainers.image.revision": "other"}}}
    assert identity(new) != identity(relabelled)


def attributes(**state: Any) -> dict[str, Any]:
    labels = {
        "outrider.machine": "m1",
        "outrider.procs": "auto",
        "org.opencontainers.image.revision": "5f6bb42",
    }
    states = {"Status": "running", "OOMKilled": False, "ExitCode": 0, **state}
    return {"Config": {"Labels": labels}, "State": states, "RestartCount": 2}


def stats(**memory: int) -> dict[str, Any]:
    """A container that used 1.5 of 4 cores between two samples."""
    samples = [
        {"system_cpu_usage": 4 * at, "online_cpus": 4, "cpu_usage": {"total_usage": 1.5 * at}}
        for at in (10, 20)
    ]
    return {
        "precpu_stats": samples[0],
        "cpu_stats": samples[1],
        "memory_stats": {"usage": 1000, "stats": memory},
    }


@pytest.mark.parametrize("cache", [{"inactive_file": 300}, {"total_inactive_file": 300, "inactive_file": 1}])
def test_a_running_container_shows_its_health_cpu_and_memory(cache: dict[str, int]) -> None:
    shown = status.container_status(attributes(Health={"Status": "unhealthy"}), stats(**cache))
    assert shown == ContainerStatus("m1", "5f6bb42", "unhealthy", "auto", 2, False, 150.0, 700)


def test_a_container_that_ended_shows_its_exit_code_and_no_cpu() -> None:
    """The engine answers with empty statistics."""
    ended = attributes(Status="exited", ExitCode=137, OOMKilled=True, Health={"Status": "healthy"})
    empty = {"cpu_stats": {"cpu_usage": {"total_usage": 0}}, "precpu_stats": {}, "memory_stats": {}}
    shown = status.container_status(ended, empty)
    assert (shown.state, shown.out_of_memory, shown.cpu_percent, shown.memory_bytes) == (
        *("exited (137)", True, None, None),
    )
    assert status.container_status(attributes(Status="restarting"), {}).state == "restarting"


def test_the_rate_of_a_machine_is_the_sum_over_its_slots() -> None:
    rates = {
        "data": {
            "result": [
                {"metric": {"slot": str(slot)}, "value": [0, str(100.0 * slot)]} for slot in (1, 2, 4, 9)
            ]
        }
    }
    page = {"fleet": [{"slot": slot, "host": "m1" if slot < 4 else "m2"} for slot in range(5)]}
    assert status.steps_per_second(rates, page) == {"m1": 300.0, "m2": 400.0}


def test_without_prometheus_there_are_no_rates() -> None:
    assert status.read_rates("http://127.0.0.1:9", "http://127.0.0.1:9") == {}


def test_every_engine_has_a_line_also_a_lost_one() -> None:
    lost = MachineError("the engine is unreachable")
    lines = status.table([M1, M2, M3], [[PLAYING], lost, []], {"m1": 1234.5}).splitlines()
    assert [line.split()[0] for line in lines] == ["MACHINE", "m1", "m2", "m3"]
    assert lines[1].split() == [
        *("m1", "5f6bb42", "healthy", "auto", "0", "no", "188", "%", "300", "MiB", "1,234")
    ]
    assert "unreachable" in lines[2]
    assert "no actors" in lines[3]


def test_a_lost_engine_does_not_stop_the_status_of_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def engine_status(engine: Engine) -> list[ContainerStatus]:
        if engine == M2:
            raise MachineError("the engine is unreachable: no route", EXIT_TEMPORARY)
        return [PLAYING._replace(machine=engine.name)]

    monkeypatch.setattr(status, "engine_status", engine_status)
    assert commandline.show([M1, M2, M3], "http://127.0.0.1:9", "http://127.0.0.1:9") == EXIT_TEMPORARY
    shown = capsys.readouterr()
    assert [line.split()[:3][-1] for line in shown.out.splitlines()[1:]] == [
        *("healthy", "unreachable", "healthy")
    ]
    assert shown.err == "machines: m2: the engine is unreachable: no route\n"


@pytest.mark.parametrize(
    ("stderr", "line"),
    [(b"a\nkeys: expected x\n", "expected x"), ("text", "text"), (b"", "a container for the keys failed")],
)
def test_the_error_of_a_key_command_is_its_last_line(stderr: bytes | str, line: str) -> None:
    assert last_line(stderr) == line


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["status"], "expected at least one ENGINE"),
        (["status", "m1", "ssh://ops@m1"], "expected engines with different names, got m1 m1"),
        (["add", "m1"], "the following arguments are required: --learner"),
        (["add", "m1", "--learner", "127.0.0.1:5555"], "an address that other machines can reach"),
        (["scale", "m1"], "the following arguments are required: --procs"),
        (["scale", "m1", "--procs", "0"], "expected auto or an integer of at least 1"),
        (["remove"], "expected at least one ENGINE"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["machines", *words])
    monkeypatch.setenv("OUTRIDER_ENGINES", "" if words[0] != "remove" else "m1")
    assert commandline.main() == 2
    written = capsys.readouterr()
    assert sentence in written.err
    assert written.err.count("\n") == 1
    assert written.out == ""
