"""Mutation tests: change one expression of the product, and require that a named test fails."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

Fact = Callable[..., None]  # a test function; its parameters are fixtures
FAILS = (AssertionError, pytest.fail.Exception)


class Mutant(NamedTuple):
    """A bug, the function that has it, the expression before and after, and the test that must fail.

    The test must fail by an assertion. If the bug makes the product raise an exception, `error` names it.
    """

    bug: str
    place: Callable[..., Any]
    old: str
    new: str
    noticed_by: Fact
    error: type[BaseException] | tuple[type[BaseException], ...] = FAILS


def inject(patch: pytest.MonkeyPatch, mutant: Mutant) -> None:
    """Replace the code of the function, also for modules that imported it by name."""
    function = inspect.unwrap(mutant.place)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(mutant.old) == 1, f"expected {mutant.old!r} once in {function.__qualname__}"
    made: dict[str, Any] = {}
    exec(source.replace(mutant.old, mutant.new), function.__globals__, made)  # noqa: S102  # our own source
    other: Any = made[function.__name__]
    other = other.fget if isinstance(other, property) else inspect.unwrap(other)
    patch.setattr(function, "__code__", other.__code__)


def check_noticed(mutant: Mutant, request: pytest.FixtureRequest) -> None:
    """Run the test with the bug; the test must fail with the expected exception."""
    names = inspect.signature(mutant.noticed_by).parameters
    fixtures = {name: request.getfixturevalue(name) for name in names}
    with pytest.MonkeyPatch.context() as patch:  # a test may undo its own patches, but not this one
        inject(patch, mutant)
        with pytest.raises(mutant.error):
            mutant.noticed_by(**fixtures)
