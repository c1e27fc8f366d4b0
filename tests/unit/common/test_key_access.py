"""Which key files and directories are refused because other users could change them, and special files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from common.keys import files
from common.keys.files import KeyDirectory, KeysError, read_key_file

_OTHER_USER = 54_321


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with the key directory `keys` of the actor alice, and her key file `given/alice.json`."""
    files.initialise(tmp_path / "keys")
    files.add(tmp_path / "keys", "alice")
    (tmp_path / "given").mkdir(0o700)
    files.export(tmp_path / "keys", "alice", tmp_path / "given" / "alice.json")
    return tmp_path


def _list(home: Path) -> None:
    _, errors = KeyDirectory.open(home / "keys").authorised()
    if errors:
        raise KeysError(errors[0])


# Each file and directory that is read, and a call that reads it.
READERS: dict[str, Callable[[Path], object]] = {
    "keys": lambda home: KeyDirectory.open(home / "keys"),
    "keys/learner.json": lambda home: KeyDirectory.open(home / "keys"),
    "keys/authorised": _list,
    "keys/authorised/alice.json": _list,
    "keys/secrets": lambda home: files.export(home / "keys", "alice", home / "copy.json"),
    "keys/secrets/alice.json": lambda home: files.export(home / "keys", "alice", home / "copy.json"),
    "given": lambda home: read_key_file(home / "given" / "alice.json"),
    "given/alice.json": lambda home: read_key_file(home / "given" / "alice.json"),
}
FILES = [path for path in READERS if path.endswith(".json")]
DIRECTORIES = [path for path in READERS if path not in FILES]


def refusal(home: Path, path: str) -> str:
    with pytest.raises(KeysError) as raised:
        READERS[path](home)
    text = str(raised.value)
    assert text.startswith("expected ") and len(text.splitlines()) == 1
    return text


def set_owner(path: Path, user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make an open file or directory appear to belong to another user, which only root can do really."""
    inode, fstat = path.stat().st_ino, os.fstat

    def changed(descriptor: int) -> os.stat_result:
        info = fstat(descriptor)
        return os.stat_result((*info[:4], user, *info[5:])) if info.st_ino == inode else info

    monkeypatch.setattr(os, "fstat", changed)


@pytest.mark.parametrize("path", READERS)
def test_files_that_this_user_alone_can_change_are_read(home: Path, path: str) -> None:
    READERS[path](home)


@pytest.mark.parametrize("others", [stat.S_IWGRP, stat.S_IWOTH], ids=["group", "others"])
@pytest.mark.parametrize("path", READERS)
def test_what_the_group_or_others_may_write_to_is_refused(home: Path, path: str, others: int) -> None:
    mode = stat.S_IMODE((home / path).stat().st_mode) | others
    (home / path).chmod(mode)
    text = refusal(home, path)
    assert f"{home / path} " in text and f"got mode {mode:04o}" in text and ": make a new key if" in text


@pytest.mark.parametrize("path", READERS)
def test_what_belongs_to_another_user_is_refused(
    home: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_owner(home / path, _OTHER_USER, monkeypatch)
    assert f"expected {home / path} to belong to root or user" in refusal(home, path)


@pytest.mark.parametrize("path", READERS)
def test_what_belongs_to_root_is_read(home: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_owner(home / path, 0, monkeypatch)
    READERS[path](home)


@pytest.mark.parametrize("path", FILES)
def test_a_symbolic_link_to_a_valid_file_is_refused(home: Path, path: str) -> None:
    (home / path).rename(home / "target.json")
    (home / path).symlink_to(home / "target.json")
    assert "got a symbolic link" in refusal(home, path)


@pytest.mark.parametrize("path", ["keys/authorised", "keys/secrets"])
def test_a_symbolic_link_within_a_key_directory_is_refused(home: Path, path: str) -> None:
    (home / path).rename(home / "target")
    (home / path).symlink_to(home / "target")
    assert f"{home / path}, got" in refusal(home, path)


@pytest.mark.parametrize("path", FILES)
def test_a_fifo_is_refused_at_once(home: Path, path: str) -> None:
    """It has no writer: a reader that waits for one would wait forever."""
    (home / path).unlink()
    os.mkfifo(home / path, 0o600)
    assert "to be a regular file" in refusal(home, path)


@pytest.mark.parametrize("path", FILES)
def test_a_directory_with_the_name_of_a_key_file_is_refused(home: Path, path: str) -> None:
    (home / path).unlink()
    (home / path).mkdir(0o700)
    assert "to be a regular file" in refusal(home, path)


def test_a_key_file_may_be_in_a_sticky_directory_and_a_key_directory_may_not_be_one(home: Path) -> None:
    """In /tmp, others can replace only their own files, but they can add files."""
    (home / "given").chmod(0o1777)
    READERS["given/alice.json"](home)
    (home / "keys" / "authorised").chmod(0o1777)
    assert "got mode 1777" in refusal(home, "keys/authorised")


def test_the_directories_above_are_not_checked(home: Path) -> None:
    home.chmod(0o777)
    for read in READERS.values():
        read(home)


def test_a_key_that_another_user_could_have_written_replaces_none(home: Path) -> None:
    """The running learner keeps the key that it read before, and authorises no other."""
    opened = KeyDirectory.open(home / "keys")
    before, _ = opened.authorised()
    files.revoke(home / "keys", "alice")
    files.add(home / "keys", "alice")
    (home / "keys" / "authorised" / "alice.json").chmod(0o602)
    after, errors = opened.authorised(before)
    assert after == before and len(errors) == 1 and "alice.json" in errors[0]
