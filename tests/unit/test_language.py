"""No text has a forbidden word, and no code or metric has a name that a standard term has replaced."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("actor", "common", "learner", "tests", "deploy")
EXEMPT = {Path(__file__)}  # this file names what it forbids
SOURCES = sorted({path for top in PACKAGES for path in (ROOT / top).rglob("*.py")} - EXEMPT)
TEXT_ENDINGS = {".md", ".yml", ".yaml", ".json", ".html", ".sh", ".cff", ".toml", ".env", ""}
PAST = {"CHANGELOG.md"}  # release notes keep the words of their time
TEXTS = sorted(
    path
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("*.cff"),
        *ROOT.glob("*.yml"),
        *(one for top in ("docs", *PACKAGES) for one in (ROOT / top).rglob("*")),
    )
    if path.is_file() and path.suffix in TEXT_ENDINGS and path.name not in PAST
)

WORDS = re.compile(r"\b(books|anew|whoever|whom|unheard|foretold|once more|goes on|is said)\b", re.IGNORECASE)
ANYWHERE = {  # identifiers
    *("Places", "Place", "Door", "Gate", "GateError", "Entry", "Handshakes", "Examination"),
    *("Seat", "Seats", "Seated", "Conduct", "Credit", "Arrival", "Inbox", "Delivered", "Scene"),
    *("Recorder", "Offer", "Patience", "Player", "Rehello", "ByeOk", "WeightsSame", "View"),
    *("seat", "seats", "seated", "door", "gate", "inbox", "conduct", "books", "tally", "aims"),
    *("turned_at", "hopeless", "false_hello", "false_progress", "explained", "bad_crcs"),
    *("hears", "serves", "bury", "dismiss", "absorb", "read_bundle", "_whatever_the_disk", "would_block"),
    *("unheard", "unheard_messages", "goal_steps", "bonus_moved_ratio", "log_prob_canary", "held_back"),
}
CLASSES = {"Line", "Progress", "Answer", "Answers", "Children", "Parent", "Client", "Report", "Mutants"}
METHODS = {"ask", "look", "turn", "prove", "cut", "strike", "greeting", "answered", "left", "lost", "rate"}
CALLS = {"ask", "look", "prove", "strike", "greeting", "answered"}  # as `x.ask(...)`
ONCE = {"Curve", "Run"}  # classes of these names are qualified where there would be two
METRICS = re.compile(
    r"outrider_\w*(?:held_back|log_prob_canary|bonus_moved_ratio|would_block|unheard_messages|goal_steps"
    r"|fleet_playing|inbox_)\w*"
)


class Finding(NamedTuple):
    """A forbidden word or name, and where it stands."""

    path: str
    line: int
    found: str


def listed(findings: list[Finding]) -> str:
    """The findings as a message, one on each line."""
    return "\n" + "\n".join(f"{one.path}:{one.line}: {one.found}" for one in sorted(findings))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Every string, comment and name of a test in a source file, with its line.

    Comments on consecutive lines are one text. A string of one word is a key or a name, not prose.
    """
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"\s", node.value):
            yield node.lineno, node.value
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name.replace("_", " ")
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1:
                yield first, " ".join(block)
                block, first = [], token.start[0]
            block.append(token.string.lstrip("# "))
            last = token.start[0]
    yield first, " ".join(block)


def words_in(text: str) -> list[str]:
    """The forbidden words of a text, also where a line break divides them."""
    return [match.lower() for match in WORDS.findall(" ".join(text.split()))]


def found_words() -> list[Finding]:
    found = []
    for path in SOURCES:
        for line, text in prose_of(path):
            found += [Finding(str(path.relative_to(ROOT)), line, word) for word in words_in(text)]
    for path in TEXTS:
        text = path.read_text()
        for match in re.finditer(WORDS.pattern.replace(" ", r"\s+"), text, re.IGNORECASE):
            line = text[: match.start()].count("\n") + 1
            found.append(Finding(str(path.relative_to(ROOT)), line, match[0]))
    return found


def identifiers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every identifier of a source text, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.keyword(arg=str(name), value=value):
                yield value.lineno, name
            case ast.alias(name=name, asname=other):
                yield node.lineno, (other or name).rpartition(".")[2]


def former_names(tree: ast.Module) -> list[tuple[int, str]]:
    """Every former name of a source text, with its line."""
    found = [(line, name) for line, name in identifiers(tree) if name in ANYWHERE]
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name, body=body):
                found += [(node.lineno, f"class {name}")] if name in CLASSES else []
                methods = [one for one in body if isinstance(one, ast.FunctionDef)]
                found += [(one.lineno, f"def {one.name}") for one in methods if one.name in METHODS]
            case ast.Call(func=ast.Attribute(attr=name)) if name in CALLS:
                found.append((node.lineno, f".{name}()"))
    return found


def found_names() -> list[Finding]:
    return [
        Finding(str(path.relative_to(ROOT)), line, name)
        for path in SOURCES
        for line, name in former_names(tree_of(path))
    ]


def found_metrics() -> list[Finding]:
    return [
        Finding(str(path.relative_to(ROOT)), text[: match.start()].count("\n") + 1, match[0])
        for path in (*SOURCES, *TEXTS)
        for text in (path.read_text(),)
        for match in METRICS.finditer(text)
    ]


def test_no_text_has_a_forbidden_word() -> None:
    assert not (found := found_words()), listed(found)


def test_no_code_has_a_former_name() -> None:
    assert not (found := found_names()), listed(found)


def test_no_file_has_a_former_metric() -> None:
    assert not (found := found_metrics()), listed(found)


def test_no_two_classes_share_an_unqualified_name() -> None:
    nodes = [node for path in SOURCES for node in ast.walk(tree_of(path))]
    defined = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
    assert {name: defined[name] for name in ONCE if defined[name] > 1} == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Whoever reads this", ["whoever"]),
        ("the run goes\n    on", ["goes on"]),
        ("rebooks the bookshop, and renewed it", []),
        ("both sets of books; begun anew", ["books", "anew"]),
    ],
)
def test_the_check_sees_each_word(text: str, words: list[str]) -> None:
    assert words_in(text) == words


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("x = Seat()", ["Seat"]),
        ("from a import Door as D\nfrom a import Door", ["Door"]),
        ("class Report: pass", ["class Report"]),
        ("class A:\n    def look(self): pass", ["def look"]),
        ("def look(): pass", []),
        ("network.ask(f)", [".ask()"]),
        ("f(hopeless=1)", ["hopeless"]),
        ("rate = left - cut", []),
    ],
)
def test_the_check_sees_each_kind_of_name(source: str, names: list[str]) -> None:
    assert [name for _, name in former_names(ast.parse(source))] == names
