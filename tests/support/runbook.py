"""Reads the shell commands of the runbook."""

from __future__ import annotations

import re
from pathlib import Path

RUNBOOK = Path(__file__).parents[2] / "deploy" / "README.md"


def sections() -> dict[str, list[str]]:
    """The blocks of shell commands, by the heading above them."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^## ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]:
        title, _, text = part.partition("\n")
        commands = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        if commands:
            found[title] = commands
    return found


def blocks(section: str) -> list[str]:
    """The blocks of one section, in order."""
    return sections()[section]
