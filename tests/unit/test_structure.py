"""Bounds of files, classes and functions; no import cycles; tests that leave private attributes alone."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("actor", "common", "learner")
PACKAGES = (*PRODUCT, "deploy", "tests")
FILE_LINES, FUNCTION_LINES, CLASS_LINES, CLASS_ATTRIBUTES, LEARNER_ENTRIES = 300, 60, 200, 15, 22


def sources(*tops: str) -> list[Path]:
    return sorted(path for top in tops for path in (ROOT / top).rglob("*.py"))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def nodes(*tops: str) -> Iterator[tuple[str, ast.AST]]:
    for path in sources(*tops):
        for node in ast.walk(tree_of(path)):
            yield str(path.relative_to(ROOT)), node


def lines_of(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def is_value(node: ast.ClassDef) -> bool:
    """Whether a class is a frozen dataclass or a named tuple, whose fields never change."""
    frozen = any(
        isinstance(one, ast.Call)
        and any(
            word.arg == "frozen" and isinstance(word.value, ast.Constant) and word.value.value is True
            for word in one.keywords
        )
        for one in node.decorator_list
    )
    return frozen or any(isinstance(base, ast.Name) and base.id == "NamedTuple" for base in node.bases)


def attributes_of(node: ast.ClassDef) -> set[str]:
    """The attributes that a class declares, or assigns to `self` in any method."""
    found = set()
    for one in ast.walk(node):
        match one:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                found.add(name)
    for statement in node.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case ast.Assign(targets=[ast.Name(id="__slots__")], value=ast.Tuple(elts=names)):
                found |= {ast.literal_eval(one) for one in names}
    return found


def imports(package: str) -> dict[str, set[str]]:
    """The modules of a package, each with those that it imports, also inside functions."""
    modules = {}
    for path in sources(package):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__init__":
            modules[".".join(parts)] = path
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        targets = set()
        for node in ast.walk(tree_of(path)):
            match node:
                case ast.Import(names=aliases):
                    targets |= {alias.name for alias in aliases}
                case ast.ImportFrom(module=str(module), names=aliases):
                    targets |= {module, *(f"{module}.{alias.name}" for alias in aliases)}
        graph[name] = targets & modules.keys()
    return graph


def private_sets(tree: ast.Module) -> list[str]:
    """Every private attribute that a source text sets on an object from outside its class.

    Private constants of modules, in capitals, do not count.
    """
    methods = {one for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for one in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self")) if node in methods:
                continue
            case ast.Attribute(attr=name, ctx=ast.Store()):
                found.append(name)
            case ast.Call(func=ast.Name(id="setattr") | ast.Attribute(attr="setattr"), args=arguments):
                names = [
                    x.value for x in arguments if isinstance(x, ast.Constant) and isinstance(x.value, str)
                ]
                found += [name.rpartition(".")[2] for name in names]
    return [name for name in found if re.match(r"_[a-z]", name)]


def test_no_file_is_over_300_lines() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources(*PACKAGES)}
    assert {path: lines for path, lines in lengths.items() if lines > FILE_LINES} == {}


def test_no_function_is_over_60_lines() -> None:
    found = {
        f"{path}:{node.name}": lines_of(node)
        for path, node in nodes(*PACKAGES)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in found.items() if lines > FUNCTION_LINES} == {}


def test_no_class_of_the_product_is_over_200_lines_or_15_attributes() -> None:
    """Frozen dataclasses are values; they are exempt."""
    found = {
        f"{path}:{node.name}": (lines_of(node), len(attributes_of(node)))
        for path, node in nodes(*PRODUCT, "deploy")
        if isinstance(node, ast.ClassDef) and not is_value(node)
    }
    over = {name: size for name, size in found.items() if size[0] > CLASS_LINES or size[1] > CLASS_ATTRIBUTES}
    assert over == {}


def test_the_learner_shows_at_most_22_entries() -> None:
    assert (
        len([path for path in (ROOT / "learner").iterdir() if path.name != "__pycache__"]) <= LEARNER_ENTRIES
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_has_an_import_cycle(package: str) -> None:
    assert list(graphlib.TopologicalSorter(imports(package)).static_order())


def test_no_test_sets_a_private_attribute() -> None:
    found = {str(path.relative_to(ROOT)): private_sets(tree_of(path)) for path in sources("tests")}
    assert {path: names for path, names in found.items() if names} == {}


def test_the_checks_see_what_they_bound() -> None:
    (node,) = ast.parse(
        "class A:\n    x: int\n    def f(self):\n        self.y = 1\n        self.z += self.w\n"
    ).body
    assert isinstance(node, ast.ClassDef)
    assert (attributes_of(node), lines_of(node), is_value(node)) == ({"x", "y", "z"}, 5, False)
    (value,) = ast.parse("@dataclass(frozen=True, slots=True)\nclass B:\n    x: int\n").body
    assert isinstance(value, ast.ClassDef) and is_value(value)
    for source in ("a._x = 1", "setattr(a, '_x', 1)", "patch.setattr('a._x', 1)", "def f(self): self._x = 1"):
        assert private_sets(ast.parse(source)) == ["_x"]
    for source in ("class A:\n    def f(self):\n        self._x = 1", "setattr(a, '_X', 1)", "b = a._x"):
        assert private_sets(ast.parse(source)) == []
