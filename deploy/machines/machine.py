"""One machine: the image, the key volume and the containers of actors that its engine has.

The labels of a container hold its settings, so no file has to be kept beside the engines.
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

from docker import DockerClient
from docker.errors import NotFound
from docker.models.containers import Container
from docker.types import LogConfig

from common.addresses import host_and_port
from deploy.machines.engines import engine_errors
from deploy.machines.errors import MachineError
from deploy.machines.plan import ActorContainer, EngineFacts, ImageFacts, Settings

MACHINE, PROCS = "outrider.machine", "outrider.procs"
_KEY, _LEARNER = "outrider.key", "outrider.learner"
COMMIT = "org.opencontainers.image.revision"
_TITLE = "org.opencontainers.image.title=outrider-actor"
_USER = 10001  # of the image
_KEY_DIRECTORY, _KEY_FILE = "/fleet", "fleet.json"
_PROCESS_BYTES, _PROCESS_THREADS = 512 * 2**20, 64  # as in docker-compose.yml
GRACE_SECONDS = 30  # to drop the unfinished chunks and leave
_KILLED = 137
_SECOND = 10**9  # in the nanoseconds of the engine's interface


def identity(attributes: Mapping[str, Any]) -> str:
    """The identity of an image: a digest of its layers and labels.

    The id of an image depends on how its engine stores images; this digest does not.
    """
    content = [attributes["RootFS"].get("Layers"), attributes["Config"].get("Labels")]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def image_facts(attributes: Mapping[str, Any]) -> ImageFacts:
    """The facts of an image, from the output of its inspection."""
    return ImageFacts(identity(attributes), attributes["Architecture"])


def key_archive(key_file: bytes) -> bytes:
    """A tar archive of the key file, readable by the actors' user alone."""
    entry = tarfile.TarInfo(_KEY_FILE)
    entry.size, entry.mode, entry.uid, entry.gid = len(key_file), 0o600, _USER, _USER
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(entry, io.BytesIO(key_file))
    return content.getvalue()


def container_options(settings: Settings, cores: int) -> dict[str, Any]:
    """The options of a container of actors, as in deploy/actor-machine.yml but for N processes.

    Args:
        settings: those of the container.
        cores: the number of cores of the engine, which is the number of processes with `auto`.
    """
    processes = cores if settings.procs == "auto" else int(settings.procs)
    connected = f":{host_and_port(settings.learner)[1]:04X} 01"
    files = ("--keys", f"{_KEY_DIRECTORY.lstrip('/')}/{_KEY_FILE}")
    labels = {
        MACHINE: settings.machine,
        _KEY: settings.key,
        _LEARNER: settings.learner,
        PROCS: settings.procs,
    }
    return {
        "name": f"outrider-actors-{secrets.token_hex(3)}",
        "command": [
            *("python", "-m", "actor", "--learner", settings.learner, *files, "--procs", settings.procs)
        ],
        "hostname": settings.machine,  # the learner's page shows it
        "labels": labels,
        "volumes": {key_volume(settings.machine): {"bind": _KEY_DIRECTORY, "mode": "ro"}},
        "user": f"{_USER}:{_USER}",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": {"/tmp": "size=256m,mode=1777"},  # noqa: S108  # of the container
        "log_config": LogConfig(type=LogConfig.types.JSON, config={"max-size": "10m", "max-file": "3"}),
        "restart_policy": {"Name": "on-failure"},  # a finished run does not start again
        "mem_limit": processes * _PROCESS_BYTES,
        "pids_limit": (processes + 1) * _PROCESS_THREADS,
        "healthcheck": {  # there is a connection to the learner's data port
            "test": ["CMD", "grep", "-qE", connected, "/proc/net/tcp", "/proc/net/tcp6"],
            "interval": 30 * _SECOND,
            "timeout": 5 * _SECOND,
            "start_period": 180 * _SECOND,
        },
    }


def key_volume(machine: str) -> str:
    """The name of the volume with the key of a machine."""
    return f"outrider-key-{machine}"


def actor_containers(client: DockerClient) -> list[Container]:
    """The containers of actors of an engine, the newest first."""
    found: list[Container] = client.containers.list(all=True, filters={"label": MACHINE})
    return sorted(found, key=lambda one: str(one.attrs["Created"]), reverse=True)


class Machine:
    """Reads and changes what one engine has."""

    def __init__(self, name: str, client: DockerClient) -> None:
        self.name, self._client = name, client

    def facts(self) -> EngineFacts:
        """Read what the engine is and has."""
        with engine_errors("the engine could not be read"):
            images = self._images()
            by_id = {image_id: one for one, image_id in images.items()}
            architecture = str(self._client.version()["Arch"])
            containers = tuple(_actor_container(one, by_id) for one in actor_containers(self._client))
        return EngineFacts(architecture, frozenset(images), containers)

    def _images(self) -> dict[str, str]:
        """The id of each actor image, by identity."""
        found = self._client.images.list(filters={"label": _TITLE})
        return {identity(one.attrs): str(one.id) for one in found}

    def load(self, image: Iterator[bytes]) -> None:
        """Load an image from the stream of another engine."""
        stream: Any = image  # the body of a request; its annotation lacks iterators
        with engine_errors("the image could not be copied"):
            self._client.images.load(stream)

    def write_key(self, key_file: bytes, image: str) -> None:
        """Write the machine's key file into its volume; a container that never runs mounts the volume."""
        volume = {key_volume(self.name): {"bind": _KEY_DIRECTORY, "mode": "rw"}}
        with engine_errors("the key could not be written"):
            self._client.volumes.create(key_volume(self.name), labels={MACHINE: self.name})
            writer = self._client.containers.create(self._images()[image], volumes=volume)
            try:
                writer.put_archive(_KEY_DIRECTORY, key_archive(key_file))
            finally:
                writer.remove(force=True)

    def create(self, settings: Settings) -> str:
        """Create a container of actors; return its id."""
        with engine_errors("the container could not be created"):
            cores = int(self._client.info()["NCPU"])
            options = container_options(settings, cores)
            return str(self._client.containers.create(self._images()[settings.image], **options).id)

    def start(self, container: str) -> None:
        """Start a container."""
        with engine_errors("the container could not be started"):
            self._client.containers.get(container).start()

    def drain(self, container: str) -> bool:
        """Stop a container; return whether its actors ended in time by themselves."""
        with engine_errors("the container could not be stopped"):
            one = self._client.containers.get(container)
            one.stop(timeout=GRACE_SECONDS)
            one.reload()
            return int(one.attrs["State"]["ExitCode"]) != _KILLED

    def delete(self, container: str) -> None:
        """Delete a container."""
        with engine_errors("the container could not be deleted"):
            self._client.containers.get(container).remove(force=True)

    def delete_volume(self, machine: str) -> None:
        """Delete the volume of a machine's key, if it exists."""
        with engine_errors("the volume of the key could not be deleted"):
            try:
                self._client.volumes.get(key_volume(machine)).remove()
            except NotFound:
                return


def _actor_container(container: Container, images: Mapping[str, str]) -> ActorContainer:
    labels = container.labels
    try:
        settings = Settings(
            labels[MACHINE],
            labels[_KEY],
            labels[_LEARNER],
            labels[PROCS],
            images.get(container.attrs["Image"], "deleted"),
        )
    except KeyError as error:
        raise MachineError(f"the container {container.name} lacks the label {error}: delete it") from None
    running = container.attrs["State"]["Status"] in ("running", "restarting", "paused")
    return ActorContainer(str(container.id), running, settings)
