"""Every command, flag, preset, metric and file that README, docs and runbook name exists."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import re
import shlex
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from learner.presets import PRESETS
from tests.unit.deploy.test_observability import anchor, exported

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "deploy" / "README.md"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
MARKERS = {line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
SCRIPTS = PROJECT["project"]["scripts"]
# Modules with options of their own; each has a `main` that reads sys.argv.
COMMANDS = {
    "actor",
    "common.doctor",
    "common.keys",
    "deploy.machines",
    "deploy.settings",
    "learner",
    "learner.checkpoints",
    "learner.evaluate",
    "learner.plot",
    "learner.table",
    "tests.bench",
}
FOREIGN_FLAGS = {"--detach", "--scale"}  # of Compose
FOLDERS = ("actor", "common", "deploy", "docs", "learner", "tests")
NAMES = {path.name for top in FOLDERS for path in (ROOT / top).rglob("*.*")} | {
    path.name for path in ROOT.iterdir()
}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code(page: Path) -> list[str]:
    """Every line of a fenced block, without its comment, and every inline code span."""
    text = page.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    joined = [block.replace("\\\n", " ") for block in blocks]
    lines = [re.split(r"\s#\s", line)[0] for block in joined for line in block.splitlines()]
    prose = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return lines + [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def words_of_commands(page: Path, start: str) -> list[tuple[str, list[str]]]:
    """What follows `start` in each command, as (first match group, words up to the command's end)."""
    found = []
    for line in code(page):
        for match in re.finditer(start, line):
            rest = re.split(r"&&|;|\||>|'(?=\s|$)", line[match.end() :])[0]
            found.append((match[1], shlex.split(rest.replace("'", ""))))
    return found


def product_commands(page: Path) -> list[tuple[str, list[str]]]:
    """Each use of a command of this repository: its module, and its words."""
    found = words_of_commands(page, r"python3? -m ([\w.]+)")
    scripts = words_of_commands(page, rf"(?:^|&& )({'|'.join(SCRIPTS)})(?= )")
    found += [(SCRIPTS[name].partition(":")[0].removesuffix(".__main__"), words) for name, words in scripts]
    for line in code(page):
        found += [("learner", shlex.split(words)) for words in re.findall(r'make train ARGS="([^"]*)"', line)]
    return found


def program(module: str) -> ModuleType:
    """The module that holds the command's `main`."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"expected the module {module}, got none"
    return importlib.import_module(f"{module}.__main__" if spec.submodule_search_locations else module)


@functools.cache
def options(module: str, *words: str) -> set[str]:
    """Every option in the help of `python -m MODULE WORDS`; fails if it does not know the words."""
    output, complaint = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(complaint),
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(sys, "argv", [module, *words, "--help"])
        sys.exit(program(module).main())
    assert not ended.value.code, complaint.getvalue()
    return set(re.findall(r"(?<![\w-])(--?[a-zA-Z][\w.-]*)", output.getvalue()))


@each_page
def test_every_module_that_is_run_exists(page: Path) -> None:
    for module, _ in product_commands(page):
        assert program(module)


@each_page
def test_every_command_knows_its_words_and_flags(page: Path) -> None:
    for module, words in product_commands(page):
        if module in COMMANDS:
            first = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
            flags = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            unknown = flags - options(module, *words[:first])
            assert not unknown, f"expected options of python -m {module}, got {sorted(unknown)}"


@each_page
def test_every_flag_in_a_text_exists(page: Path) -> None:
    known = FOREIGN_FLAGS.union(*(options(module) for module in COMMANDS))
    named = {line.split()[0].partition("=")[0] for line in code(page) if line.startswith("--")}
    assert not named - known


@each_page
def test_every_target_and_marker_exists(page: Path) -> None:
    for line in code(page):
        assert set(re.findall(r"(?:^|&& )make ([a-z-]+)", line)) <= TARGETS, line
        assert set(re.findall(r"pytest .*-m (\w+)", line)) <= MARKERS, line


@each_page
def test_a_span_that_lists_presets_lists_no_other(page: Path) -> None:
    for line in code(page):
        words = line.split()
        if set(words) & set(PRESETS) and all(re.fullmatch(r"[a-z-]+", word) for word in words):
            assert set(words) <= set(PRESETS), f"expected presets alone, got {line}"


def test_every_preset_is_in_the_readme() -> None:
    assert set(PRESETS) <= {word for line in code(ROOT / "README.md") for word in line.split()}


@each_page
def test_every_metric_exists(page: Path) -> None:
    stack = yaml.safe_load((ROOT / "deploy" / "swarm" / "stack.yml").read_text())
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    parts = [tree.get(kind, {}) for tree in (stack, compose) for kind in ("services", "volumes", "networks")]
    objects = {f"outrider_{name}" for part in parts for name in part}  # as containers and volumes are named
    for line in code(page):
        for name in re.findall(r"outrider_\w+\*?", line):
            some = [one for one in exported() if one.startswith(name.removesuffix("*"))]
            assert name in objects or name in exported() or ("*" in name and some), name


@each_page
def test_every_file_and_link_exists(page: Path) -> None:
    for name in re.findall(r"(?<![\w./-])([\w.-]+(?:/[\w.*-]+)+)", page.read_text()):
        if name.split("/")[0] in FOLDERS:
            pattern = name.rstrip(".")
            assert [*ROOT.glob(pattern), *ROOT.glob(f"{pattern}.py")], f"expected the file {name}, got none"
    for line in code(page):
        for name in re.findall(r"(?<![\w./<-])([\w.-]+\.(?:py|yml|toml|md))(?!\w)", line):
            assert name in NAMES or name.startswith("FILE"), f"expected the file {name}, got none"
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not link.startswith("https://"):
            file, _, heading = link.partition("#")
            target = page.parent / file if file else page
            assert target.exists(), f"expected the file {link}, got none"
            if heading:
                headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
                assert heading in map(anchor, headings), f"expected the section {link}, got none"
