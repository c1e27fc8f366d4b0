"""Decides which steps a command takes on one machine, from what its engine has. It does no I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from deploy.machines.errors import MachineError


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a container of actors."""

    machine: str
    key: str  # public key of the machine
    learner: str  # HOST:PORT
    procs: str  # a number, or "auto"
    image: str  # identity, see `machine.identity`


@dataclass(frozen=True, slots=True)
class ActorContainer:
    """A container of actors that an engine has."""

    id: str
    running: bool
    settings: Settings


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine is and has."""

    architecture: str  # such as amd64
    images: frozenset[str]  # identities of the actor images
    containers: tuple[ActorContainer, ...] = ()  # the newest first


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """The actor image of this machine."""

    identity: str
    architecture: str


class Action(Enum):
    """One change on a machine."""

    SHIP_IMAGE = "copy the image to the engine"
    ADD_KEY = "make a key and write it into a volume of the engine"
    CREATE = "create a container"
    DRAIN = "stop a container: its actors drop their unfinished chunks and leave"
    START = "start a container"
    DELETE = "delete a container"
    DELETE_VOLUME = "delete the volume of the key"
    REVOKE_KEY = "revoke the key"


@dataclass(frozen=True, slots=True)
class Step:
    """An action, on an existing container or, with None, on the created one."""

    action: Action
    container: str | None = None


Steps = tuple[Step, ...]


def add(
    facts: EngineFacts, machine: str, learner: str, image: ImageFacts, authorised: Mapping[str, str]
) -> Steps:
    """Return the steps that add a machine. Actors that it has already are started if they do not run.

    Args:
        facts: those of the machine's engine.
        machine: the name of the machine.
        learner: the address of the learner.
        image: the image of the actors.
        authorised: the public keys of the authorised actors, by name.

    Raises:
        MachineError: the name is taken, the engine has actors of another learner, its processor has
            another architecture, or the key of its actors is revoked.
    """
    if facts.containers:
        present = facts.containers[0].settings
        if present.learner != learner:
            raise MachineError(
                f"expected an engine without actors, got one with actors of the learner {present.learner}: "
                "remove them first"
            )
        _check_key(present, authorised)
        return _start_stopped(facts)
    if machine in authorised:
        raise MachineError(
            f"expected a new name, got {machine!r}, which another key has: write NAME=ENGINE with another "
            "name, or revoke that key"
        )
    ship = _ship(facts, image)
    return (*ship, Step(Action.ADD_KEY), Step(Action.CREATE), Step(Action.START))


def replace(
    facts: EngineFacts, procs: str | None, image: ImageFacts | None, authorised: Mapping[str, str]
) -> tuple[Settings, Steps]:
    """Return the new settings of a machine's actors and the steps that apply them.

    The new container is created before the old one is stopped, and started before it is deleted. An
    error or an interruption therefore leaves at least one container, from which the command can be repeated.

    Args:
        facts: those of the machine's engine.
        procs: the number of processes, or None for the present one.
        image: the image of the actors, or None for the present one.
        authorised: the public keys of the authorised actors, by name.

    Raises:
        MachineError: the engine has no actors, their key is revoked, or its processor has another
            architecture.
    """
    if not facts.containers:
        raise MachineError("the engine has no actors: add the machine first")
    present = facts.containers[0].settings
    _check_key(present, authorised)
    new = dataclasses.replace(
        present, procs=procs or present.procs, image=image.identity if image else present.image
    )
    if [container.settings for container in facts.containers] == [new]:
        return new, _start_stopped(facts)
    ship = _ship(facts, image) if image else ()
    drained = tuple(Step(Action.DRAIN, one.id) for one in facts.containers if one.running)
    deleted = tuple(Step(Action.DELETE, one.id) for one in facts.containers)
    return new, (*ship, Step(Action.CREATE), *drained, Step(Action.START), *deleted)


def remove(facts: EngineFacts, authorised: Mapping[str, str]) -> Steps:
    """Return the steps that remove a machine's actors and then revoke its key.

    Raises:
        MachineError: the engine has no actors.
    """
    if not facts.containers:
        raise MachineError("the engine has no actors")
    drained = tuple(Step(Action.DRAIN, one.id) for one in facts.containers if one.running)
    deleted = tuple(Step(Action.DELETE, one.id) for one in facts.containers)
    present = facts.containers[0].settings
    valid = authorised.get(present.machine) == present.key
    revoked = (Step(Action.REVOKE_KEY),) if valid else ()
    return (*drained, *deleted, Step(Action.DELETE_VOLUME), *revoked)


def _start_stopped(facts: EngineFacts) -> Steps:
    return tuple(Step(Action.START, one.id) for one in facts.containers[:1] if not one.running)


def _ship(facts: EngineFacts, image: ImageFacts) -> Steps:
    if image.architecture != facts.architecture:
        raise MachineError(
            f"expected an engine on {image.architecture}, as the image, got {facts.architecture}: build an "
            "image for that architecture"
        )
    return () if image.identity in facts.images else (Step(Action.SHIP_IMAGE),)


def _check_key(present: Settings, authorised: Mapping[str, str]) -> None:
    if authorised.get(present.machine) != present.key:
        raise MachineError(
            f"the key {present.machine} of these actors is revoked: remove the machine and add it again"
        )
