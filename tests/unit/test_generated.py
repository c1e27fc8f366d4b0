"""The committed generated files are those that `make generate` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config import Config
from learner.runs import settings
from tests.bench.report import DOCS
from tests.ci.generate import generated

FILES = generated()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_generated_file_holds_what_its_sources_say(file: Path) -> None:
    assert file.read_text() == FILES[file], f"expected {file} as generated, got other text: run make generate"


def test_the_page_of_the_configuration_has_a_row_with_a_meaning_for_every_setting() -> None:
    lines = FILES[DOCS / "configuration.md"].splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| `--")]
    flags = {"--" + name.replace("_", "-") for name in settings(Config())}
    assert {row[0].strip("| `") for row in rows} == flags
    assert all(len(row) == 4 and row[3].strip("| ").endswith(".") for row in rows)
