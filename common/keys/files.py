"""Writes and reads the key files of the learner and of its actors.

A key directory holds the learner's key pair (`learner.json`), the key pairs of its actors (`secrets/`) and
the public keys of the authorised actors (`authorised/`), one file per actor. A running learner reads
`authorised/` within a second of a change. Each file is written atomically. A file that is incomplete
because another program is copying it revokes no key.

Only root and the user of the process may be able to change a key file. Therefore the file and its
directories, up to the key directory, must belong to one of them, and neither their group nor others may write
to them. The directories above are not checked. Only regular files are read, not through symbolic links.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.keys.curve import ActorKeys, KeyPair

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_FILE_BYTES = 4096
_SECRET_MODE, _DIRECTORY_MODE = 0o600, 0o700
_OTHERS_WRITE, _OTHERS_READ_OR_WRITE = 0o022, 0o077  # modes that are refused
_READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # opening a FIFO does not wait for a writer


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
            KeysError: the file is absent or damaged, or other users can read or change it.
        """
        file = path / "learner.json"
        with _opened(path, f"the key file {file}", _READ_DIRECTORY) as directory:
            values = _read(file, directory, ("public", "secret"))
        return KeyDirectory(path, _pair(values, file))

    def authorised(self, previous: Mapping[str, str] | None = None) -> tuple[dict[str, str], list[str]]:
        """The names of the authorised actors by public key, and one sentence for each unusable file.

        Only the absence of a file revokes a key. A name whose file cannot be used, for example because
        the file is being copied, keeps its key of `previous`, the result of the previous call.

        Raises:
            KeysError: the directory cannot be read, or other users can change it.
        """
        previous_keys = {name: key for key, name in (previous or {}).items()}
        names: dict[str, str] = {}
        errors = []
        with _opened_folder(self.path, "authorised") as folder:
            for file in sorted(self.path / "authorised" / name for name in os.listdir(folder)):  # noqa: PTH208
                if file.suffix != ".json":
                    continue
                try:
                    names[_read(file, folder, ("public",))["public"]] = file.stem
                except KeysError as error:
                    errors.append(str(error))
                    if file.stem in previous_keys:
                        names.setdefault(previous_keys[file.stem], file.stem)
        return names, errors


def read_key_file(path: Path) -> ActorKeys:
    """Read the key file of one actor, as `export` writes it.

    Its directory may be one like /tmp, in which each user can replace only the user's own files.

    Raises:
        KeysError: the file is absent or damaged, or other users can read or change it.
    """
    folder = path.absolute().parent
    with _opened(folder, f"the key file {path}", _READ_DIRECTORY, sticky=True) as directory:
        values = _read(path, directory, ("learner", "name", "public", "secret"))
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
    with _opened_folder(path, "secrets") as folder:
        pair = _pair(_read(source, folder, ("public", "secret")), source)
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


@contextlib.contextmanager
def _opened(
    path: Path,
    expected: str,
    flags: int,
    parent: int | None = None,
    refused_mode: int = _OTHERS_WRITE,
    sticky: bool = False,
) -> Iterator[int]:
    """Open a file or directory that only root and this user can change.

    Args:
        path: the file or directory.
        expected: what it should be, for error messages.
        flags: the flags of `os.open`.
        parent: the open directory of `path`, so that no link above it can be exchanged meanwhile.
        refused_mode: the permissions that must not be set.
        sticky: accept a directory in which each user can replace only the user's own files.
    """
    try:
        descriptor = os.open(path if parent is None else path.name, flags, dir_fd=parent)
        try:
            info = os.fstat(descriptor)
            _check_access(path, info, 0 if sticky and info.st_mode & stat.S_ISVTX else refused_mode)
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise KeysError(
                f"expected {expected}, got a symbolic link: replace the link by the file"
            ) from None
        raise KeysError(
            f"expected {expected}, got {error.strerror}: make it with python -m common.keys"
        ) from None


@contextlib.contextmanager
def _opened_folder(directory: Path, name: str) -> Iterator[int]:
    """Open a folder of a key directory."""
    expected = f"the directory {directory / name}"
    with (
        _opened(directory, expected, _READ_DIRECTORY) as parent,
        _opened(directory / name, expected, _READ_DIRECTORY | os.O_NOFOLLOW, parent) as folder,
    ):
        yield folder


def _check_access(path: Path, info: os.stat_result, refused_mode: int) -> None:
    """Check the owner and the permissions of a file or directory."""
    user, mode = os.geteuid(), stat.S_IMODE(info.st_mode)
    if info.st_uid not in (0, user):
        raise KeysError(
            f"expected {path} to belong to root or user {user}, got user {info.st_uid}: run the "
            "command as that user if it is trusted, else make a new key"
        )
    if mode & refused_mode:
        secret = refused_mode == _OTHERS_READ_OR_WRITE
        raise KeysError(
            f"expected {path} to be {'readable' if secret else 'writable'} by its owner alone, got mode "
            f"{mode:04o}: make a new key if others may have {'read' if secret else 'changed'} it, then chmod "
            f"{'600' if secret else 'go-w'} {path}"
        )


def _read(path: Path, directory: int, fields: tuple[str, ...]) -> dict[str, str]:
    """The fields of a file in an open directory; its content never appears in an error message."""
    refused_mode = _OTHERS_READ_OR_WRITE if "secret" in fields else _OTHERS_WRITE
    with _opened(path, f"the key file {path}", _READ_FILE, directory, refused_mode) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise KeysError(
                f"expected {path} to be a regular file, got another kind: make it with python -m common.keys"
            )
        data = os.read(descriptor, _FILE_BYTES + 1)
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
