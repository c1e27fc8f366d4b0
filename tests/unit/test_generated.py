"""The committed generated files are those that `make generate` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ci.generate import generated

FILES = generated()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_generated_file_holds_what_its_sources_say(file: Path) -> None:
    assert file.read_text() == FILES[file], f"expected {file} as generated, got other text: run make generate"
