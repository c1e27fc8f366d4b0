"""The images contain the packages that their processes import."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_actor_image_has_the_packages_that_actors_import() -> None:
    """The Dockerfile leaves out exactly the packages that only the learner imports."""
    list_of_packages = re.search(r"^learner_only = (.*)$", (ROOT / "deploy" / "Dockerfile").read_text(), re.M)
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


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
