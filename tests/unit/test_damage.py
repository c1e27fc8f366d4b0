"""A file that was cut or has flipped bits is refused in one sentence."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.config import Config
from common.keys import files
from common.keys.files import KeysError, read_key_file
from common.process.lifecycle import Fatal
from learner.runs import read_config
from learner.training import checkpoint
from learner.training.checkpoint import CheckpointError, RunDirectory
from tests.support.result_files import keep
from tests.unit.learner.test_checkpoint import same, sample

PARTS = 64


def damaged(intact: bytes) -> Iterator[tuple[str, bytes]]:
    """The content cut at, and with a bit flipped in, each 1/64 of its length; and with one more byte."""
    rng = random.Random(0)
    yield "one more byte", intact + b"\0"
    for number in range(PARTS):
        start, stop = number * len(intact) // PARTS, (number + 1) * len(intact) // PARTS
        yield f"cut at {number}/64", intact[:start]
        for at in {start, rng.randrange(start, max(start + 1, stop))}:
            flipped = bytearray(intact)
            flipped[at] ^= 1 << rng.randrange(8)
            yield f"bit flipped at {at}", bytes(flipped)


def written_checkpoint(directory: Path) -> Path:
    return checkpoint.save(directory, 1, sample())


def written_config(directory: Path) -> Path:
    path = directory / "config.json"
    path.write_text(Config().to_json() + "\n")
    return path


def written_generation(directory: Path) -> Path:
    with RunDirectory(directory, resume=True) as run:
        run.begin(None)
    return directory / "generation"


def next_generation(path: Path) -> object:
    with RunDirectory(path.parent, resume=True) as run:
        return run.begin(None)


def written_key_file(directory: Path) -> Path:
    files.initialise(directory / "keys")
    files.add(directory / "keys", "alice")
    files.export(directory / "keys", "alice", directory / "alice.json")
    return directory / "alice.json"


# For each file: its writer, its reader, the reader's exception, and whether a damaged file may give another
# value. A checkpoint has a digest; in plain text a digit may become another digit.
Reader = Callable[[Path], object]
FILES: dict[str, tuple[Callable[[Path], Path], Reader, type[Exception], bool]] = {
    "checkpoint": (written_checkpoint, checkpoint.load, CheckpointError, False),
    "config.json": (written_config, lambda path: read_config(path.parent), Fatal, True),
    "generation": (written_generation, next_generation, CheckpointError, True),
    "key file": (written_key_file, read_key_file, KeysError, False),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    write, read, refusal, may_differ = FILES[name]
    path = write(tmp_path)
    tried = refused = 0
    for what, data in damaged(path.read_bytes()):
        tried += 1
        path.write_bytes(data)
        try:
            value = read(path)
        except refusal as error:
            refused += 1
            text = str(error)
            assert "expected" in text and "\n" not in text and str(path) in text, (what, text)
        else:
            assert may_differ, f"{what}: read as {value}"
    assert refused > 0
    keep(f"damaged-{name.replace(' ', '-')}", {"cases": tried, "refused": refused})


def test_a_damaged_checkpoint_is_skipped_wherever_the_damage_is(tmp_path: Path) -> None:
    """The checkpoint before it is used."""
    checkpoint.save(tmp_path, 1, sample(1))
    path = checkpoint.save(tmp_path, 2, sample(2))
    for what, data in damaged(path.read_bytes()):
        path.write_bytes(data)
        found = checkpoint.newest(tmp_path)
        assert found is not None and same(found, sample(1)), what
