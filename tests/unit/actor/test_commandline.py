"""The command line of the actors."""

from __future__ import annotations

import pytest

from actor import __main__ as commandline
from common.process.lifecycle import EXIT_USAGE, Fatal


@pytest.fixture(autouse=True)
def _five_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commandline, "usable_cores", lambda: 5)


@pytest.mark.parametrize(("words", "processes"), [([], 1), (["--procs", "3"], 3), (["--procs", "auto"], 5)])
def test_auto_runs_one_process_for_each_usable_core(words: list[str], processes: int) -> None:
    assert commandline.parse(["--learner", "10.0.0.5:5555", *words]).procs == processes


@pytest.mark.parametrize("number", ["0", "-1", "all", "1.5", ""])
def test_another_number_of_processes_is_a_usage_error(number: str) -> None:
    with pytest.raises(
        Fatal, match="argument --procs: expected auto or an integer of at least 1, got"
    ) as error:
        commandline.parse(["--learner", "10.0.0.5:5555", f"--procs={number}"])
    assert error.value.code == EXIT_USAGE
