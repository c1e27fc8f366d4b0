"""Exit codes and error messages of commands, and output into a closed pipe."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from common import arguments, log
from common.process.lifecycle import Fatal
from learner.monitoring.progress_line import ProgressFacts, ProgressLine

CLOSED_PIPE = 141  # 128 + SIGPIPE, the exit code that a shell reports for the signal


@contextlib.contextmanager
def closed_pipe(name: str, buffered: bool = True) -> Iterator[None]:
    """Replace `sys.stdout` or `sys.stderr` with a pipe that has no reader."""
    reader, writer = os.pipe()
    os.close(reader)
    binary = os.fdopen(writer, "wb", -1 if buffered else 0)
    with (
        io.TextIOWrapper(binary, write_through=not buffered) as output,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, name, output)
        yield
        output.flush()  # fails if unwritten text is left for the interpreter's exit


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Fatal(78, "expected a run, got none"), 78, "plot: expected a run, got none\n"),
        (KeyboardInterrupt(), 75, "plot: stopped before the end\n"),
    ],
)
def test_a_command_that_fails_ends_with_a_code_and_one_sentence(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert arguments.exit_code(lambda: fail(error), "plot") == code
    assert capsys.readouterr().err == message


def test_a_defect_is_logged_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments.exit_code(lambda: fail(RuntimeError("a defect")), "plot") == 70
    captured = capsys.readouterr()
    assert "plot_failed" in captured.err and "RuntimeError: a defect" in captured.err and captured.out == ""


def test_the_code_that_a_command_returns_is_its_exit_code() -> None:
    assert arguments.exit_code(lambda: 75, "actor") == 75
    assert arguments.exit_code(lambda: None, "plot") == 0


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("text", ["short", "long " * 10_000])
def test_output_into_a_closed_pipe_ends_a_command_without_a_message(
    text: str, buffered: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with closed_pipe("stdout", buffered):
        assert arguments.exit_code(lambda: print(text), "plot") == CLOSED_PIPE
    assert capsys.readouterr().err == ""


def test_a_broken_pipe_that_is_not_the_output_is_a_defect(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments.exit_code(lambda: fail(BrokenPipeError()), "plot") == 70
    assert "BrokenPipeError" in capsys.readouterr().err


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["learner", "actor"])
def test_help_into_a_closed_pipe_ends_without_a_message(command: str, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        ended = subprocess.run(
            [sys.executable, "-m", command, "--help"],
            stdout=output,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            timeout=60,
        )
    assert ended.stderr == b""
    assert ended.returncode in (0, CLOSED_PIPE)  # 0: argparse itself ignores a write that fails at once


@pytest.mark.parametrize("buffered", [True, False])
def test_a_progress_line_into_a_closed_pipe_does_not_end_training(
    buffered: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure("learner")
    facts = ProgressFacts(64, 640, 256, 10.0, None, None, 1, 0)
    with closed_pipe("stdout", buffered):
        line = ProgressLine()
        line.show(facts, last=True)
        line.show(facts, last=True)
        assert arguments.exit_code(lambda: print("run finished"), "learner") == 0
    assert capsys.readouterr().err.count("progress_line_closed") == 1


@pytest.mark.parametrize("buffered", [True, False])
def test_a_log_into_a_closed_pipe_does_not_end_the_process(buffered: bool) -> None:
    with closed_pipe("stderr", buffered):
        log.configure("learner")
        structlog.get_logger().warning("keys_revoked")
