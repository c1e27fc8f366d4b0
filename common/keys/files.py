"""Writes and reads the key files of the learner and of its actors.

A key directory holds the learner's key pair (`learner.json`), the key pairs of its actors (`secrets/`) and
the public keys of the authorised actors (`authorised/`), one file per actor. A running learner reads
`authorised/` within a second of a change. Each file is written atomically. A file that is incomplete
because another program is copying it revokes no key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.keys.curve import ActorKeys, KeyPair

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_FILE_BYTES = 4096
_SECRET_MODE, _DIRECTORY_MODE = 0o600, 0o700


class KeysError(Exception):
    """A key file or key directory cannot be used; the text is one sentence."""


@dataclass(frozen=True, slots=True)
class KeyDirectory:
    """A key directory and the key pair of its learner."""

    path: Path
    pair: KeyPair

    @staticmethod
    def open(path: Path) -> KeyDirectory:
        """Read the learner's key pair.

        Raises:
            KeysError: the file is absent, damaged, or readable by other users.
        """
        values = _read(path / "learner.json", ("public", "secret"))
        return KeyDirectory(path, _pair(values, path / "learner.json"))

    def authorised(self, previous: Mapping[str, str] | None = None) -> tuple[dict[str, str], list[str]]:
        """The names of the authorised actors by public key, and one sentence for each unusable file.

        Only the absence of a file revokes a key. A name whose file cannot be used, for example because
        the file is being copied, keeps its key of `previous`, the result of the previous call.

        Raises:
            KeysError: the directory cannot be read, or other users may write to it.
        """
        folder = self.path / "authorised"
        try:
            files = sorted(file for file in folder.iterdir() if file.suffix == ".json")
            mode = stat.S_IMODE(folder.stat().st_mode)
        except OSError as error:
            raise KeysError(
                f"expected the directory {folder}, got {error.strerror}: make it with python -m common.keys"
            ) from None
        if mode & 0o022:
            raise KeysError(
                f"expected {folder} to be writable by its owner alone, got mode {mode:04o}: "
                f"chmod 700 {folder}"
            )
        previous_keys = {name: key for key, name in (previous or {}).items()}
        names: dict[str, str] = {}
        errors = []
        for file in files:
            try:
                names[_read(file, ("public",))["public"]] = file.stem
            except KeysError as error:
                errors.append(str(error))
                if file.stem in previous_keys:
                    names.setdefault(previous_keys[file.stem], file.stem)
        return names, errors


def read_key_file(path: Path) -> ActorKeys:
    """Read the key file of one actor, as `export` writes it.

    Raises:
        KeysError: the file is absent, damaged, or readable by other users.
    """
    values = _read(path, ("learner", "name", "public", "secret"))
    return ActorKeys(values["name"], values["learner"], _pair(values, path))


def initialise(path: Path) -> bool:
    """Make a key directory with a key pair for the learner; False if it exists already."""
    if (path / "learner.json").exists():
        KeyDirectory.open(path)
        return False
    try:
        for folder in (path, path / "authorised", path / "secrets"):
            folder.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
            folder.chmod(_DIRECTORY_MODE)
    except OSError as error:
        raise KeysError(
            f"expected to create {path}, got {error.strerror}: choose another directory"
        ) from None
    _write(path / "learner.json", dataclasses.asdict(KeyPair.new()))
    return True


def add(path: Path, name: str) -> bool:
    """Make a key pair for a new actor and authorise it; False if its name is authorised already."""
    _check_name(name)
    KeyDirectory.open(path)
    if (path / "authorised" / f"{name}.json").exists():
        return False
    pair = KeyPair.new()
    _write(path / "secrets" / f"{name}.json", dataclasses.asdict(pair))
    _write(path / "authorised" / f"{name}.json", {"public": pair.public})
    return True


def revoke(path: Path, name: str) -> None:
    """Revoke the key of an actor and delete its key pair, even if the files are damaged."""
    folder = path / "authorised"
    _require_one_of([file.stem for file in folder.glob("*.json")], name)
    (folder / f"{name}.json").unlink()
    (path / "secrets" / f"{name}.json").unlink(missing_ok=True)


def export(path: Path, name: str, out: Path) -> None:
    """Write the key file that an actor's machine needs."""
    directory = KeyDirectory.open(path)
    _require_one_of(directory.authorised()[0].values(), name)
    source = path / "secrets" / f"{name}.json"
    pair = _pair(_read(source, ("public", "secret")), source)
    _write(out, {"learner": directory.pair.public, "name": name, **dataclasses.asdict(pair)})


def _require_one_of(authorised: Iterable[str], name: str) -> None:
    names = sorted(authorised)
    if name not in names:
        raise KeysError(
            f"expected an authorised actor ({', '.join(names) or 'there is none'}), got {name!r}: "
            "choose one of these names"
        )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise KeysError(
            f"expected a name of at most 32 characters of a-z, 0-9 and -, got {name!r}: choose another name"
        )


def _read(path: Path, fields: tuple[str, ...]) -> dict[str, str]:
    """The fields of a file; its content never appears in an error message."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(_FILE_BYTES + 1)
    except OSError as error:
        raise KeysError(
            f"expected the key file {path}, got {error.strerror}: make it with python -m common.keys"
        ) from None
    if "secret" in fields and mode & 0o077:
        raise KeysError(
            f"expected {path} to be readable by its owner alone, got mode {mode:04o}: make a new key if "
            f"others may have read it, then chmod 600 {path}"
        )
    try:
        values = json.loads(data.decode("ascii"))
        checksum = values.pop("checksum")
        intact = values.keys() == set(fields) and checksum == _checksum(values)
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        intact = False
    if not intact:
        raise KeysError(
            f"expected {path} as python -m common.keys wrote it, got other content: make it again with "
            "that command"
        )
    return dict(values)


def _pair(values: dict[str, str], path: Path) -> KeyPair:
    pair = KeyPair(values["public"], values["secret"])
    if not pair.matches():
        raise KeysError(f"expected a key pair in {path}, got halves of different pairs: make it again")
    return pair


def _checksum(values: dict[str, str]) -> str:
    """A checksum of a file's fields; it detects damage, not forgery."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _write(path: Path, values: dict[str, str]) -> None:
    """Write a file that only its owner can read, atomically."""
    text = json.dumps({**values, "checksum": _checksum(values)}, indent=1) + "\n"
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _SECRET_MODE), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise KeysError(f"expected to write {path}, got {error.strerror}: choose another path") from None
