"""Machines are added, changed and removed on engines in memory, with keys in a real key directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.keys import files
from common.keys.files import KeyDirectory
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_DONE, EXIT_TEMPORARY
from deploy.machines import __main__ as commandline
from deploy.machines import commands
from deploy.machines.commands import Commands, Source
from deploy.machines.engines import Engine
from deploy.machines.errors import MachineError
from deploy.machines.keys import DirectoryKeys
from tests.support.fake_engine import NEW, OLD, FakeEngine

LEARNER = "10.0.0.5:5555"
M1, M2 = Engine("m1", "tcp://m1:2375"), Engine("m2", "tcp://m2:2375")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    files.initialise(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The engine of m1, which has no image; m2 is unreachable."""
    made = FakeEngine("m1")

    def connect(wanted: Engine) -> object:
        if wanted == M1:
            return made.client()
        raise MachineError("the engine is unreachable", EXIT_TEMPORARY)

    monkeypatch.setattr(commands, "connect", connect)
    return made


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def make(keys: Path, lines: list[str]) -> Callable[..., Commands]:
    """A function that makes the commands with a release of the image on this machine."""

    def commands_with(release: str = NEW) -> Commands:
        here = FakeEngine("here", release)
        return Commands(DirectoryKeys(keys), lambda: Source(here.client(), "outrider-actor"), lines.append)

    return commands_with


def authorised(keys: Path) -> set[str]:
    return set(KeyDirectory.open(keys).authorised()[0].values())


def test_a_new_machine_gets_the_image_a_key_and_one_container(
    engine: FakeEngine, keys: Path, make: Callable[..., Commands], lines: list[str]
) -> None:
    make().add(M1, LEARNER, "auto")
    assert engine.did() == ["load", "create", "put", "remove", "create", "start"]
    [container] = engine.running()
    assert authorised(keys) == {"m1"}
    assert container.labels["outrider.key"] in KeyDirectory.open(keys).authorised()[0]
    assert container.options["command"][3:] == [
        *("--learner", LEARNER, "--keys", "fleet/fleet.json", "--procs", "auto")
    ]
    assert [line.partition(": ")[0] for line in lines] == ["m1"] * 3


def test_only_the_actors_user_can_read_the_key_in_the_volume(
    engine: FakeEngine, make: Callable[..., Commands]
) -> None:
    make().add(M1, LEARNER, "auto")
    [[file]] = engine.files.values()
    assert (file.name, file.mode, file.uid, file.gid) == ("fleet.json", 0o600, 10001, 10001)
    [container] = engine.running()
    [mount] = container.options["volumes"].values()
    assert mount == {"bind": "/fleet", "mode": "ro"}


def test_actors_run_without_rights_and_their_limits_follow_their_number(
    engine: FakeEngine, make: Callable[..., Commands]
) -> None:
    make().add(M1, LEARNER, "auto")  # the engine has 4 cores
    [first] = engine.running()
    assert (first.options["cap_drop"], first.options["read_only"]) == (["ALL"], True)
    assert first.options["user"] == "10001:10001"
    assert first.options["restart_policy"] == {"Name": "on-failure"}
    assert first.options["healthcheck"]["test"][2] == "-qE"
    assert first.options["healthcheck"]["test"][3] == ":15B3 01"
    make().replace(M1, "8", upgrade=False)
    [second] = engine.running()
    assert second.options["mem_limit"] == 2 * first.options["mem_limit"]
    assert second.options["pids_limit"] > first.options["pids_limit"]


@pytest.mark.parametrize("fails", ["put", "create", "start"])
def test_a_machine_that_fails_to_start_leaves_neither_key_nor_container(
    engine: FakeEngine, keys: Path, make: Callable[..., Commands], fails: str
) -> None:
    engine.fails = fails
    with pytest.raises(MachineError, match=r"could not be .*: the connection was lost"):
        make().add(M1, LEARNER, "auto")
    assert (authorised(keys), engine.all_containers, engine.all_volumes) == (set(), {}, set())
    engine.fails = None
    make().add(M1, LEARNER, "auto")
    assert len(engine.running()) == 1


def test_a_key_of_another_machine_is_left_alone(
    engine: FakeEngine, keys: Path, make: Callable[..., Commands]
) -> None:
    files.add(keys, "m1")
    with pytest.raises(MachineError, match="expected a new name, got 'm1'"):
        make().add(M1, LEARNER, "auto")
    assert (authorised(keys), engine.actions) == ({"m1"}, [])


def test_an_upgrade_replaces_the_image_and_keeps_key_and_number(
    engine: FakeEngine, keys: Path, make: Callable[..., Commands]
) -> None:
    make(OLD).add(M1, LEARNER, "3")
    [old] = engine.running()
    make(NEW).replace(M1, None, upgrade=True)
    [new] = engine.running()
    assert new.attrs["Image"] == "m1-new"
    assert new.labels == old.labels
    assert list(engine.all_containers) == [new.id]
    before = list(engine.actions)
    make(NEW).replace(M1, None, upgrade=True)
    assert engine.actions == before


def test_scaling_needs_no_image_on_this_machine(engine: FakeEngine, keys: Path, lines: list[str]) -> None:
    def source() -> Source:
        raise AssertionError("the image is not needed")

    here = FakeEngine("here", NEW)
    made = Commands(DirectoryKeys(keys), lambda: Source(here.client(), "outrider-actor"), lines.append)
    made.add(M1, LEARNER, "auto")
    Commands(DirectoryKeys(keys), source, lines.append).replace(M1, "2", upgrade=False)
    [container] = engine.running()
    assert container.options["command"][-1] == "2"


@pytest.mark.parametrize(("code", "report"), [(0, "actors left"), (137, "actors killed after 30 s")])
def test_a_removed_machine_leaves_nothing(
    engine: FakeEngine, keys: Path, make: Callable[..., Commands], lines: list[str], code: int, report: str
) -> None:
    make().add(M1, LEARNER, "auto")
    engine.exit_code = code
    make().remove(M1)
    assert (authorised(keys), engine.all_containers, engine.all_volumes) == (set(), {}, set())
    assert lines[-2:] == [f"m1: {report}", "m1: key m1 revoked"]


def test_the_key_is_valid_until_the_actors_have_left(
    engine: FakeEngine, keys: Path, make: Callable[..., Commands]
) -> None:
    make().add(M1, LEARNER, "auto")
    engine.fails = "stop"
    with pytest.raises(MachineError, match="the container could not be stopped"):
        make().remove(M1)
    assert authorised(keys) == {"m1"}


def test_a_lost_machine_can_be_locked_out(engine: FakeEngine, make: Callable[..., Commands]) -> None:
    with pytest.raises(MachineError, match=r"revoke its key with python -m common\.keys revoke") as error:
        make().remove(M2)
    assert error.value.code == EXIT_TEMPORARY


def test_a_missing_image_that_is_not_built_here_is_one_sentence(
    engine: FakeEngine, keys: Path, lines: list[str]
) -> None:
    here = FakeEngine("here")
    made = Commands(DirectoryKeys(keys), lambda: Source(here.client(), "other-image"), lines.append)
    with pytest.raises(MachineError, match="expected the image other-image on this machine, got none"):
        made.add(M1, LEARNER, "auto")
    assert authorised(keys) == set()


def test_a_build_that_fails_is_one_sentence(
    engine: FakeEngine, keys: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_BUILD", ("false",))
    here = FakeEngine("here")
    made = Commands(DirectoryKeys(keys), lambda: Source(here.client(), "outrider-actor"), lines.append)
    with pytest.raises(MachineError, match="the image outrider-actor is missing, and false failed with 1"):
        made.add(M1, LEARNER, "auto")


def test_an_error_of_one_machine_does_not_stop_the_others(
    engine: FakeEngine, make: Callable[..., Commands], capsys: pytest.CaptureFixture[str]
) -> None:
    made = make()
    code = commandline.change_each([M2, M1], lambda one: made.add(one, LEARNER, "auto"))
    assert code == EXIT_TEMPORARY
    assert len(engine.running()) == 1
    assert capsys.readouterr().err == "machines: m2: the engine is unreachable\n"
    assert commandline.change_each([M1], lambda one: made.add(one, LEARNER, "auto")) == EXIT_DONE
    code = commandline.change_each([M2, M1], lambda one: made.add(one, "10.0.0.6:5555", "auto"))
    assert code == EXIT_CONFIGURATION
