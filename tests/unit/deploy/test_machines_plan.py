"""The steps of each command on a machine, decided from what its engine has."""

from __future__ import annotations

import dataclasses

import pytest

from deploy.machines import plan
from deploy.machines.errors import MachineError
from deploy.machines.plan import Action, ActorContainer, EngineFacts, ImageFacts, Settings, Step

LEARNER, NAME, KEY = "10.0.0.5:5555", "m1", "public-key"
IMAGE = ImageFacts("new", "amd64")
KEYS = {NAME: KEY, "fleet": "other-key"}
NEW = Settings(NAME, KEY, LEARNER, "auto", "new")
OLD = dataclasses.replace(NEW, image="old")


def facts(
    *settings: Settings, images: tuple[str, ...] = ("new",), running: bool = True, architecture: str = "amd64"
) -> EngineFacts:
    containers = tuple(ActorContainer(f"c{at}", running, one) for at, one in enumerate(settings))
    return EngineFacts(architecture, frozenset(images), containers)


def add(present: EngineFacts, keys: dict[str, str]) -> list[Action]:
    return [step.action for step in plan.add(present, NAME, LEARNER, IMAGE, keys)]


def test_an_empty_engine_gets_image_key_and_container() -> None:
    assert add(facts(images=("old",)), {}) == [
        Action.SHIP_IMAGE,
        Action.ADD_KEY,
        Action.CREATE,
        Action.START,
    ]


def test_an_image_that_the_engine_has_is_not_copied() -> None:
    assert Action.SHIP_IMAGE not in add(facts(), {})


def test_adding_a_machine_again_changes_nothing() -> None:
    assert plan.add(facts(NEW), NAME, LEARNER, IMAGE, KEYS) == ()
    assert plan.add(facts(OLD), NAME, LEARNER, IMAGE, KEYS) == ()


def test_adding_a_machine_again_starts_actors_that_have_ended() -> None:
    stopped = plan.add(facts(NEW, running=False), NAME, LEARNER, IMAGE, KEYS)
    assert stopped == (Step(Action.START, "c0"),)


@pytest.mark.parametrize(
    ("present", "keys", "sentence"),
    [
        (facts(), KEYS, "expected a new name, got 'm1'"),
        (facts(dataclasses.replace(NEW, learner="10.0.0.6:5555")), KEYS, "the learner 10.0.0.6:5555"),
        (facts(NEW), {}, "the key m1 of these actors is revoked"),
        (facts(NEW), {NAME: "another"}, "the key m1 of these actors is revoked"),
        (facts(architecture="arm64"), {}, "expected an engine on amd64, as the image, got arm64"),
    ],
)
def test_a_machine_that_cannot_be_added_is_refused(
    present: EngineFacts, keys: dict[str, str], sentence: str
) -> None:
    with pytest.raises(MachineError, match=sentence):
        plan.add(present, NAME, LEARNER, IMAGE, keys)


def test_the_new_container_is_created_before_the_old_one_stops_and_starts_before_it_is_deleted() -> None:
    settings, steps = plan.replace(facts(OLD, images=("old",)), None, IMAGE, KEYS)
    assert settings == NEW
    assert steps == (
        Step(Action.SHIP_IMAGE),
        Step(Action.CREATE),
        Step(Action.DRAIN, "c0"),
        Step(Action.START),
        Step(Action.DELETE, "c0"),
    )


def test_scaling_keeps_the_image() -> None:
    settings, steps = plan.replace(facts(OLD, images=("old",)), "3", None, KEYS)
    assert settings == dataclasses.replace(OLD, procs="3")
    assert Action.SHIP_IMAGE not in [step.action for step in steps]


@pytest.mark.parametrize(("procs", "image"), [(None, IMAGE), ("auto", None)])
def test_equal_settings_need_no_steps(procs: str | None, image: ImageFacts | None) -> None:
    assert plan.replace(facts(NEW), procs, image, KEYS) == (NEW, ())


def test_an_interrupted_replacement_can_be_repeated() -> None:
    """The engine has the new container and the old one; both give way to one container."""
    _, steps = plan.replace(facts(NEW, OLD), None, IMAGE, KEYS)
    assert [step.container for step in steps if step.action is Action.DELETE] == ["c0", "c1"]
    assert [step.action for step in steps].count(Action.CREATE) == 1


@pytest.mark.parametrize(
    ("present", "keys", "sentence"),
    [
        (facts(), KEYS, "the engine has no actors"),
        (facts(OLD), {}, "the key m1 of these actors is revoked"),
        (facts(OLD, architecture="arm64"), KEYS, "expected an engine on amd64"),
    ],
)
def test_actors_that_cannot_be_replaced_are_refused(
    present: EngineFacts, keys: dict[str, str], sentence: str
) -> None:
    with pytest.raises(MachineError, match=sentence):
        plan.replace(present, "2", IMAGE, keys)


def test_actors_leave_before_they_are_deleted_and_the_key_is_revoked_last() -> None:
    assert plan.remove(facts(NEW, OLD), KEYS) == (
        Step(Action.DRAIN, "c0"),
        Step(Action.DRAIN, "c1"),
        Step(Action.DELETE, "c0"),
        Step(Action.DELETE, "c1"),
        Step(Action.DELETE_VOLUME),
        Step(Action.REVOKE_KEY),
    )


def test_actors_that_do_not_run_are_deleted_without_a_stop() -> None:
    assert Step(Action.DRAIN, "c0") not in plan.remove(facts(NEW, running=False), KEYS)


@pytest.mark.parametrize("keys", [{}, {NAME: "another"}])
def test_only_the_key_of_the_removed_actors_is_revoked(keys: dict[str, str]) -> None:
    assert Step(Action.REVOKE_KEY) not in plan.remove(facts(NEW), keys)


def test_an_engine_without_actors_has_nothing_to_remove() -> None:
    with pytest.raises(MachineError, match="the engine has no actors"):
        plan.remove(facts(), KEYS)
