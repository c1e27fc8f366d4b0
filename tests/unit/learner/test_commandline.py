"""The learner's command line: runs, seeds, resumed directories and keys."""

from __future__ import annotations

import dataclasses
import signal
import sys
import threading
from pathlib import Path

import pytest

from common.config import Config
from common.keys import files
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_DONE, EXIT_TEMPORARY, EXIT_USAGE, Fatal
from learner import __main__ as program
from learner import service
from learner.commandline import Options, parse
from learner.presets import PRESETS


def refusal(*argv: str) -> Fatal:
    with pytest.raises(Fatal) as raised:
        parse(list(argv))
    assert len(str(raised.value).splitlines()) == 1
    return raised.value


def write_config(path: Path, preset: str, seed: int) -> Config:
    config = dataclasses.replace(PRESETS[preset], seed=seed)
    path.mkdir(parents=True)
    (path / "config.json").write_text(config.to_json())
    return config


def test_without_seeds_there_is_one_run_in_the_given_directory(tmp_path: Path) -> None:
    [(config, options)] = parse(["cartpole", "--seed", "7", "--run-dir", str(tmp_path)])
    assert config == dataclasses.replace(PRESETS["cartpole"], seed=7)
    assert options.run_dir == tmp_path


def test_each_seed_is_a_run_that_differs_in_nothing_else(tmp_path: Path) -> None:
    runs = parse(["pong", "--seeds", "3,1,20", "--ppo.epochs", "2", "--run-dir", str(tmp_path)])
    assert [config.seed for config, _ in runs] == [3, 1, 20]
    assert [options.run_dir.name for _, options in runs] == ["seed-3", "seed-1", "seed-20"]
    assert {options.run_dir.parent for _, options in runs} == {tmp_path}
    assert {config.ppo.epochs for config, _ in runs} == {2}
    assert len({dataclasses.replace(config, seed=0) for config, _ in runs}) == 1


def test_seeds_without_a_directory_have_one_each_named_by_preset_and_seed() -> None:
    paths = [options.run_dir for _, options in parse(["pong", "--seeds=1,2"])]
    assert [path.parent for path in paths] == [Path("runs")] * 2
    assert [path.name.rsplit("-", 2)[0] for path in paths] == ["pong-1", "pong-2"]


@pytest.mark.parametrize("text", ["1,,2", "a", "", "1,2,", "1,2,1", "1,01", "-1,2", "1 2", "1.5", str(2**63)])
def test_seeds_that_are_not_a_list_of_different_integers_are_refused(text: str) -> None:
    fatal = refusal("pong", f"--seeds={text}")
    assert (fatal.code, "seed" in str(fatal)) == (EXIT_USAGE, True)


@pytest.mark.parametrize("seed", [["--seed", "1"], ["--seed=1"]])
def test_seed_and_seeds_together_are_refused(seed: list[str]) -> None:
    fatal = refusal("pong", "--seeds", "1,2", *seed)
    assert (fatal.code, "got both" in str(fatal)) == (EXIT_USAGE, True)


def test_each_seed_is_resumed_with_the_settings_of_its_own_directory(tmp_path: Path) -> None:
    earlier = [write_config(tmp_path / f"seed-{seed}", "cartpole", seed) for seed in (1, 2)]
    runs = parse(["--resume", "--run-dir", str(tmp_path), "--seeds", "1,2", "--total-steps", "64"])
    assert [config for config, _ in runs] == [dataclasses.replace(one, total_steps=64) for one in earlier]


def test_a_seed_that_never_ran_starts_next_to_resumed_ones(tmp_path: Path) -> None:
    write_config(tmp_path / "seed-1", "cartpole", 1)
    runs = parse(["cartpole", "--resume", "--run-dir", str(tmp_path), "--seeds", "1,2"])
    assert [(config.preset, config.seed) for config, _ in runs] == [("cartpole", 1), ("cartpole", 2)]


def test_a_seed_that_never_ran_does_not_start_with_other_settings_than_the_resumed_ones(
    tmp_path: Path,
) -> None:
    write_config(tmp_path / "seed-1", "cartpole", 1)
    fatal = refusal("--resume", "--run-dir", str(tmp_path), "--seeds", "1,2")
    assert fatal.code == EXIT_CONFIGURATION
    assert "preset was cartpole, now freeway" in str(fatal)


@pytest.mark.parametrize(
    ("flags", "difference"),
    [(["--ppo.epochs", "7"], "ppo.epochs was 20, now 7"), (["--seed", "2"], "seed was 1, now 2")],
)
def test_a_resumed_run_keeps_its_settings(tmp_path: Path, flags: list[str], difference: str) -> None:
    write_config(tmp_path / "run", "cartpole", 1)
    fatal = refusal("--resume", "--run-dir", str(tmp_path / "run"), *flags)
    assert (fatal.code, f"({difference})" in str(fatal)) == (EXIT_CONFIGURATION, True)


class Learners:
    """Stands for `service.run`; it receives a signal or fails at one seed."""

    def __init__(self, at: int = 0, number: signal.Signals | None = None, fatal: Fatal | None = None) -> None:
        self.seeds: list[int] = []
        self._at, self._number, self._fatal = at, number, fatal

    def __call__(self, config: Config, options: Options, stop: threading.Event) -> dict[str, object]:
        self.seeds.append(config.seed)
        if config.seed == self._at and self._number is not None:
            signal.raise_signal(self._number)
        if config.seed == self._at and self._fatal is not None:
            raise self._fatal
        return {"exit_reason": "stopped" if stop.is_set() else "finished"}


def exit_code(monkeypatch: pytest.MonkeyPatch, directory: Path, learners: Learners) -> int:
    argv = ["learner", "cartpole", "--seeds", "1,2,3", "--run-dir", str(directory)]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(service, "run", learners)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return program.main()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_seeds_run_one_after_another_and_each_summary_is_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learners = Learners()
    assert exit_code(monkeypatch, tmp_path, learners) == 0
    assert learners.seeds == [1, 2, 3]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("run ")]
    assert lines == [f"run finished: {tmp_path}/seed-{seed}" for seed in (1, 2, 3)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, EXIT_TEMPORARY), (signal.SIGINT, EXIT_DONE)])
def test_a_signal_ends_the_sequence_with_the_summary_of_the_run_it_stopped(
    number: signal.Signals,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    learners = Learners(at=2, number=number)
    assert exit_code(monkeypatch, tmp_path, learners) == code
    assert learners.seeds == [1, 2]
    assert f"run stopped: {tmp_path}/seed-2" in capsys.readouterr().out


def test_an_error_that_the_user_has_to_correct_ends_the_sequence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learners = Learners(at=2, fatal=Fatal(EXIT_CONFIGURATION, "expected a disk, got none: attach one"))
    assert exit_code(monkeypatch, tmp_path, learners) == EXIT_CONFIGURATION
    assert learners.seeds == [1, 2]
    assert capsys.readouterr().err == "learner: expected a disk, got none: attach one\n"


def test_a_port_that_other_machines_reach_requires_keys_or_insecure_plaintext(tmp_path: Path) -> None:
    bind = ("--bind", "tcp://0.0.0.0:5555")
    fatal = refusal("pong", *bind)
    assert (fatal.code, "python -m common.keys init" in str(fatal)) == (EXIT_CONFIGURATION, True)
    files.initialise(tmp_path / "keys")
    with_keys = ("--keys", str(tmp_path / "keys"))
    [(_, options)] = parse(["pong", *bind, *with_keys])
    assert options.keys is not None and not options.insecure_plaintext
    [(_, options)] = parse(["pong", *bind, "--insecure-plaintext"])
    assert options.keys is None and options.insecure_plaintext
    [(_, options)] = parse(["pong", "--insecure-plaintext"])
    assert not options.insecure_plaintext, "other machines do not reach the loopback address"
    assert refusal("pong", *bind, *with_keys, "--insecure-plaintext").code == EXIT_USAGE
    assert refusal("pong", "--keys", str(tmp_path)).code == EXIT_CONFIGURATION


def test_a_seed_that_never_ran_may_have_auto_and_another_the_resolved_precision(tmp_path: Path) -> None:
    earlier = write_config(tmp_path / "seed-1", "smoke", 1)
    (tmp_path / "seed-1" / "config.json").write_text(
        dataclasses.replace(earlier, precision="bfloat16").to_json()
    )
    for seeds in ("1,2", "2,1"):
        runs = parse(["smoke", "--resume", "--run-dir", str(tmp_path), "--seeds", seeds])
        assert sorted((config.seed, config.precision) for config, _ in runs) == [(1, "bfloat16"), (2, "auto")]
