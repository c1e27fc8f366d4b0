"""One engine and one build of the images, and projects that are removed after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support import container_engine as engines
from tests.support.container_engine import Service


@pytest.fixture(scope="session", autouse=True)
def _engine() -> Iterator[None]:
    with engines.engine() as available:
        if not available:
            pytest.skip("no container engine answers here, and none can be started")
        yield


@pytest.fixture(scope="session")
def images(_engine: None) -> None:
    engines.build_images()


@pytest.fixture(autouse=True)
def _settings(_engine: None) -> Iterator[None]:
    """Restore the settings in `.env`, which commands of the runbook change."""
    file = engines.ROOT / ".env"
    before = file.read_text() if file.exists() else None
    yield
    if before is None:
        file.unlink(missing_ok=True)
    else:
        file.write_text(before)


@pytest.fixture
def service(images: None) -> Iterator[Callable[..., Service]]:
    """A function that makes a project with its own ports and a small preset; removed after the test."""
    made: list[Service] = []

    def make(actors: int, **variables: str) -> Service:
        # A batch has one chunk per actor, as with the defaults and 32 actors; each lane costs time to set up.
        lanes = f"--rollout.lanes 2 --rollout.batch-lanes {2 * actors}"
        usual = {"ACTORS": str(actors), "PRESET": "smoke", "ARGS": lanes}
        made.append(Service(usual | engines.free_ports() | variables))
        return made[-1]

    yield make
    for project in made:
        project.down("--volumes")
