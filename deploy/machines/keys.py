"""The keys of the actors' machines: in a key directory, or in the volume of the learner's Compose project."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from docker import DockerClient
from docker.errors import ContainerError

from common.keys import files
from common.keys.files import KeyDirectory, KeysError
from deploy.machines.engines import engine_errors
from deploy.machines.errors import MachineError

_EXPORT = 'python -m common.keys export "$0" -o /tmp/key.json >&2 && cat /tmp/key.json'


class Keys(Protocol):
    """Where keys are made, listed and revoked."""

    def authorised(self) -> dict[str, str]:
        """Return the public keys of the authorised actors, by name."""

    def add(self, name: str) -> bytes:
        """Make a key, authorise it and return its key file."""

    def revoke(self, name: str) -> None:
        """Revoke a key."""


class DirectoryKeys:
    """The keys in a directory of this machine, for a learner that runs without containers."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def authorised(self) -> dict[str, str]:
        """Return the public keys of the authorised actors, by name."""
        try:
            names, _ = KeyDirectory.open(self._path).authorised()
        except KeysError as error:
            raise MachineError(str(error)) from None
        return {name: key for key, name in names.items()}

    def add(self, name: str) -> bytes:
        """Make a key, authorise it and return its key file."""
        try:
            files.add(self._path, name)
            with tempfile.TemporaryDirectory() as directory:
                file = Path(directory) / "key.json"
                files.export(self._path, name, file)
                return file.read_bytes()
        except KeysError as error:
            raise MachineError(str(error)) from None

    def revoke(self, name: str) -> None:
        """Revoke a key."""
        try:
            files.revoke(self._path, name)
        except KeysError as error:
            raise MachineError(str(error)) from None


class VolumeKeys:
    """The keys in a volume. A container of the actor image reads and changes them, as their owner."""

    def __init__(self, client: DockerClient, volume: str, image: str) -> None:
        self._client, self._volume, self._image = client, volume, image

    def authorised(self) -> dict[str, str]:
        """Return the public keys of the authorised actors, by name."""
        words = self._run(["python", "-m", "common.keys", "list"]).decode().split()
        return dict(zip(words[::2], words[1::2], strict=True))

    def add(self, name: str) -> bytes:
        """Make a key, authorise it and return its key file."""
        self._run(["python", "-m", "common.keys", "add", name])
        return self._run(["sh", "-c", _EXPORT, name])

    def revoke(self, name: str) -> None:
        """Revoke a key."""
        self._run(["python", "-m", "common.keys", "revoke", name])

    def _run(self, command: Sequence[str]) -> bytes:
        """Run a command beside the key directory `keys` and return its standard output."""
        with engine_errors("a container for the keys could not run"):
            try:
                output: bytes = self._client.containers.run(
                    self._image,
                    list(command),
                    remove=True,
                    volumes={self._volume: {"bind": "/keys", "mode": "rw"}},
                    network_mode="none",
                    read_only=True,
                    tmpfs={"/tmp": "size=16m,mode=1777"},  # noqa: S108  # of the container
                    cap_drop=["ALL"],
                    security_opt=["no-new-privileges:true"],
                )
            except ContainerError as error:
                raise MachineError(last_line(error.stderr)) from None
            return output


def last_line(stderr: bytes | str | None) -> str:
    """The last line of a command's error output, without the name of the command."""
    text = stderr.decode(errors="replace") if isinstance(stderr, bytes) else stderr or ""
    return (text.strip().splitlines() or ["a container for the keys failed"])[-1].removeprefix("keys: ")


def compose_volume(client: DockerClient, project: str) -> str:
    """The name of the volume with the keys of a Compose project.

    Raises:
        MachineError: there is no such project.
    """
    labels = [f"com.docker.compose.project={project}", "com.docker.compose.volume=keys"]
    with engine_errors("the volumes of this machine could not be read"):
        found = client.volumes.list(filters={"label": labels})
    if not found:
        raise MachineError(
            f"expected the volume `keys` of the Compose project {project}, got none: start the learner with "
            "docker compose up first, or give its key directory with --keys"
        )
    return str(found[0].name)
