"""The commands add, scale, upgrade and remove: each reads an engine, plans steps and takes them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from docker import DockerClient
from docker.errors import ImageNotFound

from deploy.machines import plan
from deploy.machines.engines import Engine, connect, engine_errors
from deploy.machines.errors import MachineError
from deploy.machines.keys import Keys
from deploy.machines.machine import GRACE_SECONDS, Machine, image_facts
from deploy.machines.plan import Action, ImageFacts, Settings, Steps

IMAGE = "outrider-actor"
_CHECKOUT = Path(__file__).parents[2]
_BUILD = ("docker", "compose", "build", "actor")


class Source:
    """The actor image of this machine's engine."""

    def __init__(self, client: DockerClient, name: str) -> None:
        self._client, self._name = client, name

    def facts(self) -> ImageFacts:
        """Read the image; build it first if it is missing.

        Raises:
            MachineError: it is missing and cannot be built.
        """
        with engine_errors("the image could not be read"):
            try:
                return image_facts(self._client.images.get(self._name).attrs)
            except ImageNotFound:
                self._build()
                return image_facts(self._client.images.get(self._name).attrs)

    def _build(self) -> None:
        if self._name != IMAGE:
            raise MachineError(f"expected the image {self._name} on this machine, got none: build it")
        ended = subprocess.run(_BUILD, cwd=_CHECKOUT, check=False)
        if ended.returncode:
            raise MachineError(
                f"the image {IMAGE} is missing, and {' '.join(_BUILD)} failed with {ended.returncode}"
            )

    def copy_to(self, machine: Machine) -> None:
        """Copy the image to the engine of a machine."""
        with engine_errors("the image could not be copied"):
            machine.load(self._client.images.get(self._name).save(named=True))


class Execution:
    """Takes the steps of a plan on one machine, and reports each.

    Args:
        machine: the machine.
        settings: those of the container to create; the key is filled in when it is made.
        keys: where keys are made and revoked.
        source: the image to copy, if a step copies it.
        report: receives a line for each step.
    """

    def __init__(
        self,
        machine: Machine,
        settings: Settings,
        keys: Keys,
        source: Source | None,
        report: Callable[[str], None],
    ) -> None:
        self._machine, self._settings, self._keys = machine, settings, keys
        self._source, self._report = source, report
        self._created = ""

    def take(self, steps: Steps) -> None:
        """Take the steps in their order. If a step after the making of a key fails, undo all of them."""
        made = False
        try:
            for step in steps:
                made = made or step.action is Action.ADD_KEY
                self._take(step.action, step.container or self._created)
        except BaseException:
            if made:
                self._undo()
            raise
        if not steps:
            self._report("nothing to do")

    def _take(self, action: Action, container: str) -> None:
        machine, settings = self._machine, self._settings
        match action:
            case Action.SHIP_IMAGE:
                assert self._source is not None
                self._report("copying the image")
                self._source.copy_to(machine)
            case Action.ADD_KEY:
                key_file = self._keys.add(settings.machine)
                self._settings = dataclasses.replace(settings, key=json.loads(key_file)["public"])
                machine.write_key(key_file, settings.image)
                self._report(f"key {settings.machine} made")
            case Action.CREATE:
                self._created = machine.create(settings)
            case Action.DRAIN:
                left = machine.drain(container)
                self._report("actors left" if left else f"actors killed after {GRACE_SECONDS} s")
            case Action.START:
                machine.start(container)
                self._report(f"actors started for {settings.learner}, --procs {settings.procs}")
            case Action.DELETE:
                machine.delete(container)
            case Action.DELETE_VOLUME:
                machine.delete_volume(settings.machine)
            case Action.REVOKE_KEY:
                self._keys.revoke(settings.machine)
                self._report(f"key {settings.machine} revoked")

    def _undo(self) -> None:
        """Remove what `add` has made, as far as the engine responds."""
        with contextlib.suppress(MachineError):
            self._keys.revoke(self._settings.machine)
        with contextlib.suppress(MachineError):
            if self._created:
                self._machine.delete(self._created)
            self._machine.delete_volume(self._settings.machine)


class Commands:
    """Changes one machine at a time.

    Args:
        keys: where keys are made and revoked.
        source: returns the source of the image.
        report: receives a line for each step.
    """

    def __init__(self, keys: Keys, source: Callable[[], Source], report: Callable[[str], None]) -> None:
        self._keys, self._source, self._report = keys, source, report

    def add(self, engine: Engine, learner: str, procs: str) -> None:
        """Start actors on an engine that has none; start those that it has already."""
        machine, source = Machine(engine.name, connect(engine)), self._source()
        facts, image = machine.facts(), source.facts()
        steps = plan.add(facts, engine.name, learner, image, self._keys.authorised())
        new = Settings(engine.name, "", learner, procs, image.identity)
        settings = facts.containers[0].settings if facts.containers else new
        self._take(engine, machine, settings, source, steps)

    def replace(self, engine: Engine, procs: str | None, upgrade: bool) -> None:
        """Give a machine's actors another number of processes, or the image of this machine."""
        machine = Machine(engine.name, connect(engine))
        source = self._source() if upgrade else None
        image = source.facts() if source else None
        settings, steps = plan.replace(machine.facts(), procs, image, self._keys.authorised())
        self._take(engine, machine, settings, source, steps)

    def remove(self, engine: Engine) -> None:
        """Drain and delete a machine's actors, then revoke its key."""
        try:
            client = connect(engine)
        except MachineError as error:
            text = f"{error}; to lock its actors out, revoke its key with python -m common.keys revoke"
            raise MachineError(text, error.code) from None
        machine = Machine(engine.name, client)
        facts = machine.facts()
        steps = plan.remove(facts, self._keys.authorised())
        self._take(engine, machine, facts.containers[0].settings, None, steps)

    def _take(
        self, engine: Engine, machine: Machine, settings: Settings, source: Source | None, steps: Steps
    ) -> None:
        def report(line: str) -> None:
            self._report(f"{engine.name}: {line}")

        Execution(machine, settings, self._keys, source, report).take(steps)
