"""Memory in use against its limit, from files that a test writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.memory import MemoryUse, memory_use

MEMINFO = "MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 400 kB\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A control group and the machine's file."""
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 200\nactive_file 50\n")
    (tmp_path / "meminfo").write_text(MEMINFO)
    return tmp_path, tmp_path / "meminfo"


def test_the_page_cache_of_a_container_is_not_in_use(files: tuple[Path, Path]) -> None:
    """The kernel frees it before it ends a process."""
    (files[0] / "memory.max").write_text("900\n")
    assert memory_use(*files) == MemoryUse(500, 900)


@pytest.mark.parametrize("limit", ["max\n", "", None])
def test_without_a_limit_of_the_container_the_machine_is_the_limit(
    files: tuple[Path, Path], limit: str | None
) -> None:
    if limit is not None:
        (files[0] / "memory.max").write_text(limit)
    assert memory_use(*files) == MemoryUse(600 * 1024, 1000 * 1024)


def test_a_system_that_does_not_tell_has_no_values(files: tuple[Path, Path]) -> None:
    files[1].write_text("MemTotal: 1000 kB\n")
    assert memory_use(*files) is None
    files[1].unlink()
    assert memory_use(*files) is None
