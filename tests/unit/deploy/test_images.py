"""The images: their packages, their wheels of PyTorch and their tags."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import tomllib

from tests.unit.deploy.test_deployment import COMPOSE, DEPLOY, MACHINE, ROOT, interpolate


def test_the_actor_image_has_the_packages_that_actors_import() -> None:
    """The Dockerfile leaves out exactly the packages that only the learner imports."""
    list_of_packages = re.search(r"^learner_only = (.*)$", (DEPLOY / "Dockerfile").read_text(), re.M)
    assert list_of_packages is not None
    left_out = ast.literal_eval(list_of_packages[1])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    modules = importlib.metadata.packages_distributions()
    imported = {
        distribution.lower().replace("_", "-")
        for folder in ("actor", "common")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for module in _modules(node)
        for distribution in modules.get(module.partition(".")[0], [])
    }
    needs = {re.match(r"[\w-]+", need)[0] for need in project["dependencies"]}  # type: ignore[index]
    assert imported & needs == needs - (left_out - {"torch"})


def test_the_images_have_the_tag_of_the_settings_and_latest() -> None:
    """Swarm and Kubernetes use the latter."""
    for tree in (COMPOSE, MACHINE):
        for service in tree["services"].values():
            if "build" in service:
                name, _, _ = service["image"].partition(":")
                assert interpolate(service["image"], OUTRIDER_TAG="1.2-abc") == f"{name}:1.2-abc"
                assert service["build"]["tags"] == [f"{name}:latest"]
    assert "org.opencontainers.image.revision" in (DEPLOY / "Dockerfile").read_text()


def test_the_gpu_override_alone_replaces_the_index_of_wheels() -> None:
    """The index of CPU wheels reaches every other image, those of other machines too."""
    assert re.findall(r"^ARG TORCH_INDEX=(.*)$", (DEPLOY / "Dockerfile").read_text(), re.M) == [""]
    for tree in (COMPOSE, MACHINE):
        for service in tree["services"].values():
            if "build" in service:
                assert service["build"]["args"]["TORCH_INDEX"] is None
    assert '{TORCH_INDEX: "${CUDA_INDEX:-}"}' in (DEPLOY / "compose.gpu.yml").read_text()


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
