"""Makes docs/configuration.md from common/config.py and learner/presets.py."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from common.config import Config
from learner.presets import DEFAULT_PRESET, PRESETS
from learner.runs import settings

_HEAD = f"""\
# Configuration

This page lists every setting of a run and the settings that each preset changes. `python -m learner --help`
also shows the options of the learner's process, such as its address and its run directory.

The first word after `python -m learner` names a preset (default: `{DEFAULT_PRESET}`). A flag changes one
setting of the preset. A setting that is on or off has two flags: `--ppo.anneal` turns it on, and
`--ppo.no-anneal` turns it off.

```bash
python -m learner cartpole --total-steps 50000 --ppo.learning-rate 3e-4 --ppo.no-anneal
```

The learner writes all settings to `config.json` in the run directory and sends them to every actor.

Sources: RND is Burda et al. 2018 (arXiv:1810.12894), PPO is Schulman et al. 2017 (arXiv:1707.06347), and GAE
is Schulman et al. 2016 (arXiv:1506.02438).
"""
_PRESETS = """\
## Presets

Each preset starts from the defaults above and changes these settings.
"""


def page() -> str:
    """The text of docs/configuration.md."""
    sections = [_section("Run", "", Config)]
    for name, hint in typing.get_type_hints(Config).items():
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            sections.append(_section(f"Section `{name}`", f"{name}.", hint))
    rows = [f"| `{name}` | {', '.join(_differences(config)) or 'none'} |" for name, config in PRESETS.items()]
    presets = "\n".join([_PRESETS, "| Preset | Settings |", "|---|---|", *rows, ""])
    return "\n".join([_HEAD, *sections, presets])


def _section(title: str, prefix: str, kind: type[Any]) -> str:
    """The heading, the description and the table of the settings of a configuration dataclass."""
    hints, meanings = typing.get_type_hints(kind), _attribute_docstrings(kind)
    lines = [f"## {title}", "", inspect.getdoc(kind) or "", ""]
    lines += ["| Flag | Type | Default | Meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        if not dataclasses.is_dataclass(hints[field.name]):
            default, meaning = _text(field.default), meanings[field.name].replace("|", "\\|")
            flag = f"--{prefix}{field.name}".replace("_", "-")
            lines.append(f"| `{flag}` | {_type(hints[field.name])} | `{default}` | {meaning} |")
    return "\n".join([*lines, ""])


def _attribute_docstrings(kind: type[Any]) -> dict[str, str]:
    """The string below each annotated attribute in the source of a class."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                found[name] = " ".join(text.split())
    return found


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(hint))
    if isinstance(hint, types.UnionType):
        return " or ".join(map(_type, typing.get_args(hint)))
    return {int: "integer", float: "number", bool: "on or off", str: "text", types.NoneType: "`None`"}[hint]


def _text(value: object) -> str:
    """The text of a value in the table."""
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _differences(config: Config) -> Iterator[str]:
    """The settings in which a preset differs from the defaults, as flags."""
    defaults = settings(Config())
    for name, value in settings(config).items():
        if value != defaults[name] and name != "preset":
            section, dot, option = name.replace("_", "-").rpartition(".")
            flag = f"--{section}{dot}{'no-' if value is False else ''}{option}"
            yield f"`{flag}`" if isinstance(value, bool) else f"`{flag} {value}`"
