"""A container engine in memory, with the part of the Docker SDK's client that deploy.machines uses."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Iterator
from typing import Any, cast

import requests
from docker import DockerClient
from docker.errors import ImageNotFound, NotFound

NEW, OLD = "new", "old"  # releases of the image


def image_attributes(release: str, architecture: str = "amd64") -> dict[str, Any]:
    """The inspection of an actor image."""
    labels = {
        "org.opencontainers.image.title": "outrider-actor",
        "org.opencontainers.image.revision": release,
    }
    layers = [f"sha256:{release}"]
    return {
        "Architecture": architecture,
        "RootFS": {"Layers": layers},
        "Config": {"Labels": labels},
    }


class FakeImage:
    """An image; each engine gives it another id."""

    def __init__(self, engine: FakeEngine, release: str, architecture: str) -> None:
        self.id, self.release = f"{engine.name}-{release}", release
        self.attrs = image_attributes(release, architecture)

    def save(self, named: bool) -> Iterator[bytes]:
        assert named
        return iter([self.release.encode()])


class FakeContainer:
    """A container that records what happens to it."""

    def __init__(self, engine: FakeEngine, number: int, image: str, options: dict[str, Any]) -> None:
        self._engine = engine
        self.id, self.name, self.options = f"{engine.name}-{number}", options.get("name"), options
        self.labels: dict[str, str] = options.get("labels", {})
        state = {"Status": "created", "ExitCode": 0, "OOMKilled": False}
        config = {"Labels": self.labels}
        self.attrs = {
            "Created": f"{number:09d}",
            "Image": image,
            "State": state,
            "Config": config,
            "RestartCount": 0,
        }

    @property
    def state(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self.attrs["State"])

    def start(self) -> None:
        self._engine.record("start", self.id)
        self.state["Status"] = "running"

    def stop(self, timeout: int) -> None:
        assert timeout == 30
        self._engine.record("stop", self.id)
        self.state.update(Status="exited", ExitCode=self._engine.exit_code)

    def reload(self) -> None:
        pass

    def remove(self, force: bool) -> None:
        assert force
        self._engine.record("remove", self.id)
        del self._engine.all_containers[self.id]

    def put_archive(self, path: str, data: bytes) -> None:
        self._engine.record("put", self.id)
        [volume] = [name for name, mount in self.options["volumes"].items() if mount["bind"] == path]
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            self._engine.files[volume] = archive.getmembers()

    def stats(self, stream: bool) -> dict[str, Any]:
        assert not stream
        return {}


class FakeEngine:
    """The state of an engine, and the collections of the SDK's client that read and change it."""

    def __init__(self, name: str, *releases: str, architecture: str = "amd64") -> None:
        self.name, self.architecture = name, architecture
        self.all_images = {one: FakeImage(self, one, architecture) for one in releases}
        self.all_containers: dict[str, FakeContainer] = {}
        self.all_volumes: set[str] = set()
        self.files: dict[str, list[tarfile.TarInfo]] = {}
        self.actions: list[tuple[str, str]] = []
        self.fails: str | None = None  # the action that the engine fails at
        self.exit_code = 0  # of stopped containers
        self.containers, self.images, self.volumes = _Containers(self), _Images(self), _Volumes(self)
        self._numbers = itertools.count()

    def record(self, action: str, what: str) -> None:
        if self.fails == action:
            raise requests.ConnectionError("the connection was lost")
        self.actions.append((action, what))

    def did(self) -> list[str]:
        """The actions so far."""
        return [action for action, _ in self.actions]

    def running(self) -> list[FakeContainer]:
        return [one for one in self.all_containers.values() if one.state["Status"] == "running"]

    def next_number(self) -> int:
        return next(self._numbers)

    def version(self) -> dict[str, str]:
        return {"Arch": self.architecture}

    def info(self) -> dict[str, int]:
        return {"NCPU": 4}

    def client(self) -> DockerClient:
        return cast("DockerClient", self)


class _Containers:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def list(self, all: bool, filters: dict[str, str]) -> list[FakeContainer]:  # noqa: A002  # as in the SDK
        assert all
        return [one for one in self._engine.all_containers.values() if filters["label"] in one.labels]

    def get(self, container: str) -> FakeContainer:
        return self._engine.all_containers[container]

    def create(self, image: str, **options: Any) -> FakeContainer:
        made = FakeContainer(self._engine, self._engine.next_number(), image, options)
        self._engine.record("create", made.id)
        self._engine.all_containers[made.id] = made
        return made


class _Images:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def list(self, filters: dict[str, str]) -> list[FakeImage]:
        assert filters == {"label": "org.opencontainers.image.title=outrider-actor"}
        return list(self._engine.all_images.values())

    def get(self, name: str) -> FakeImage:
        """The newest image, whatever its name."""
        if not self._engine.all_images:
            raise ImageNotFound(name)
        return list(self._engine.all_images.values())[-1]

    def load(self, data: Iterator[bytes]) -> None:
        release = b"".join(data).decode()
        self._engine.record("load", release)
        self._engine.all_images[release] = FakeImage(self._engine, release, "amd64")


class _Volumes:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def create(self, name: str, labels: dict[str, str]) -> None:
        assert "outrider.machine" in labels
        self._engine.all_volumes.add(name)

    def get(self, name: str) -> _Volume:
        if name not in self._engine.all_volumes:
            raise NotFound(name)
        return _Volume(self._engine, name)


class _Volume:
    def __init__(self, engine: FakeEngine, name: str) -> None:
        self._engine, self._name = engine, name

    def remove(self) -> None:
        self._engine.record("remove volume", self._name)
        self._engine.all_volumes.discard(self._name)
