"""Key directories and key files: permissions, damage and revocations; and the command that writes them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from common.keys import __main__, files
from common.keys.curve import KeyPair
from common.keys.files import KeyDirectory, KeysError, read_key_file


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    files.initialise(path)
    files.add(path, "alice")
    files.add(path, "bob")
    return path


def sentence(act: Callable[[], object]) -> str:
    with pytest.raises(KeysError) as raised:
        act()
    text = str(raised.value)
    assert len(text.splitlines()) == 1 and text.startswith("expected ")
    return text


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(directory: Path) -> set[str]:
    return set(KeyDirectory.open(directory).authorised()[0].values())


def rewrite(path: Path, **changes: str) -> None:
    """Change fields and write the checksum that fits."""
    values = json.loads(path.read_text())
    del values["checksum"]
    path.unlink()
    files._write(path, values | changes)


def test_other_users_can_read_no_file_and_enter_no_directory(tmp_path: Path) -> None:
    earlier = os.umask(0)
    try:
        path = tmp_path / "keys"
        files.initialise(path)
        files.add(path, "alice")
        files.export(path, "alice", tmp_path / "alice.json")
    finally:
        os.umask(earlier)
    folders = [path, path / "authorised", path / "secrets"]
    assert {mode(folder) for folder in folders} == {0o700}
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) == 4 and {mode(file) for file in written} == {0o600}


def test_a_key_file_holds_the_learners_public_key_and_the_pair_of_an_authorised_actor(
    directory: Path, tmp_path: Path
) -> None:
    files.export(directory, "alice", tmp_path / "a.json")
    keys, opened = read_key_file(tmp_path / "a.json"), KeyDirectory.open(directory)
    assert keys.learner == opened.pair.public
    assert opened.authorised()[0][keys.pair.public] == keys.name == "alice"
    assert keys.pair.matches() and opened.pair.secret not in (tmp_path / "a.json").read_text()


def test_making_and_adding_again_change_nothing(directory: Path) -> None:
    before = {path: path.read_bytes() for path in directory.rglob("*.json")}
    assert not files.initialise(directory) and not files.add(directory, "bob")
    assert before == {path: path.read_bytes() for path in directory.rglob("*.json")}


def test_a_revoked_actor_is_removed_and_the_others_stay(directory: Path) -> None:
    files.revoke(directory, "bob")
    assert names(directory) == {"alice"}
    assert "(alice), got 'bob'" in sentence(lambda: files.revoke(directory, "bob"))
    assert "got 'bob'" in sentence(lambda: files.export(directory, "bob", directory / "b.json"))


def test_an_actor_whose_file_is_damaged_can_be_revoked_and_added_again(directory: Path) -> None:
    file = directory / "authorised" / "bob.json"
    file.write_bytes(file.read_bytes()[:40])
    files.revoke(directory, "bob")
    assert not file.exists() and names(directory) == {"alice"}
    assert files.add(directory, "bob") and names(directory) == {"alice", "bob"}


def test_a_name_that_is_added_after_its_revocation_has_another_key(directory: Path) -> None:
    before = KeyDirectory.open(directory).authorised()[0]
    files.revoke(directory, "bob")
    files.add(directory, "bob")
    after = KeyDirectory.open(directory).authorised()[0]
    assert set(before.values()) == set(after.values()) and before.keys() != after.keys()


@pytest.mark.parametrize("name", ["", "Alice", "../alice", "a" * 33, "-a", "a b", "a/b", "a\n"])
def test_a_name_with_other_characters_or_too_many_is_refused(directory: Path, name: str) -> None:
    assert "a-z" in sentence(lambda: files.add(directory, name))


@pytest.mark.parametrize("open_to", [0o640, 0o604, 0o620, 0o660, 0o666, 0o777])
def test_a_secret_that_others_may_read_or_write_is_refused(
    directory: Path, tmp_path: Path, open_to: int
) -> None:
    key_file = tmp_path / "a.json"
    files.export(directory, "alice", key_file)
    for path, read in (
        (key_file, lambda: read_key_file(key_file)),
        (directory / "learner.json", lambda: KeyDirectory.open(directory)),
    ):
        path.chmod(open_to)
        text = sentence(read)
        assert f"{open_to:04o}" in text and "chmod 600" in text


def test_a_list_of_authorised_actors_that_others_may_extend_is_refused(directory: Path) -> None:
    (directory / "authorised").chmod(0o770)
    assert "chmod go-w" in sentence(KeyDirectory.open(directory).authorised)


def test_absent_files_and_directories_are_named(directory: Path, tmp_path: Path) -> None:
    assert "nowhere" in sentence(lambda: read_key_file(tmp_path / "nowhere.json"))
    assert "learner.json" in sentence(lambda: KeyDirectory.open(tmp_path / "nowhere"))
    opened = KeyDirectory.open(directory)
    (directory / "authorised").rename(directory / "elsewhere")
    assert "authorised" in sentence(opened.authorised)


def test_a_damaged_key_file_is_refused_in_a_sentence_that_shows_nothing_of_it(
    directory: Path, tmp_path: Path
) -> None:
    """One bit is flipped, for every byte, or the file is cut at a multiple of 1/64 of its length."""
    path = tmp_path / "a.json"
    files.export(directory, "alice", path)
    whole, read = path.read_bytes(), read_key_file(path)
    flips = [whole[:n] + bytes([whole[n] ^ 1 << n % 8]) + whole[n + 1 :] for n in range(len(whole) - 1)]
    cuts = [whole[: len(whole) * part // 64] for part in range(64)]
    refused = 0
    for data in [*flips, *cuts, b"[]", b"null", b'"a"', b"[" * 4000, b"\xff" * 100, bytes(5000)]:
        path.write_bytes(data)
        try:
            assert read_key_file(path) == read, "the damage was not detected"
        except KeysError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1
            assert read.pair.secret not in str(error) and read.pair.secret[5:15] not in str(error)
    assert refused >= len(flips) + len(cuts) - 8  # a space may become other white space


def test_halves_of_different_pairs_are_refused(directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for change in ({"public": KeyPair.new().public}, {"secret": KeyPair.new().secret}, {"secret": "short"}):
        files.export(directory, "alice", path)
        rewrite(path, **change)
        assert "halves" in sentence(lambda: read_key_file(path))


def test_a_damaged_file_excludes_its_own_actor_alone(directory: Path) -> None:
    (directory / "authorised" / "bob.json").write_text("{}")
    found, errors = KeyDirectory.open(directory).authorised()
    assert set(found.values()) == {"alice"}
    assert len(errors) == 1 and "bob.json" in errors[0]


@pytest.mark.parametrize("shown_bytes", [0, 1, 40, -2])
def test_a_name_whose_key_file_is_being_copied_keeps_its_former_key(
    directory: Path, shown_bytes: int
) -> None:
    opened, file = KeyDirectory.open(directory), directory / "authorised" / "bob.json"
    before, _ = opened.authorised()
    file.write_bytes(file.read_bytes()[:shown_bytes])
    during, errors = opened.authorised(before)
    assert during == before
    assert len(errors) == 1 and "bob.json" in errors[0]
    file.unlink()
    assert opened.authorised(during) == ({key: name for key, name in before.items() if name == "alice"}, [])


def test_a_name_whose_key_file_was_replaced_has_the_new_key_alone(directory: Path) -> None:
    opened, file = KeyDirectory.open(directory), directory / "authorised" / "bob.json"
    before, _ = opened.authorised()
    files.revoke(directory, "bob")
    files.add(directory, "bob")
    whole = file.read_bytes()
    file.write_bytes(whole[:40])
    during, _ = opened.authorised(before)
    file.write_bytes(whole)
    after, errors = opened.authorised(during)
    assert during == before
    assert sorted(after.values()) == ["alice", "bob"] and after.keys() != before.keys() and errors == []


def test_a_file_that_is_being_written_is_not_read(directory: Path) -> None:
    (directory / "authorised" / "carol.json.123.part").write_text("{")
    assert KeyDirectory.open(directory).authorised()[1] == []


def test_printed_keys_show_no_secret(directory: Path, tmp_path: Path) -> None:
    files.export(directory, "alice", tmp_path / "a.json")
    keys, opened = read_key_file(tmp_path / "a.json"), KeyDirectory.open(directory)
    shown = f"{keys!r} {keys} {opened!r} {opened}"
    assert keys.pair.secret not in shown and opened.pair.secret not in shown
    assert keys.pair.public in shown


def test_the_command_manages_keys_and_reports_each_error_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> int:
        monkeypatch.setattr("sys.argv", ["keys", *argv])
        return __main__.main()

    assert run("add", "alice") == 78
    assert capsys.readouterr().err.startswith("keys: expected the key file keys/learner.json")
    assert run("init") == run("add", "alice") == run("add", "bob") == run("revoke", "bob") == 0
    assert run("export", "alice", "-o", "a.json") == 0
    assert run("list") == 0
    shown = capsys.readouterr()
    secrets = [json.loads(file.read_text()).get("secret") for file in tmp_path.rglob("*.json")]
    assert len([secret for secret in secrets if secret]) == 3
    assert not any(secret in shown.out + shown.err for secret in secrets if secret)
    assert read_key_file(Path("a.json")).pair.public in shown.out
    assert run("export", "alice", "-o", "no/where.json") == 78
    assert run("add") == run("shout") == run() == 2
    assert all(line.startswith("keys: ") for line in capsys.readouterr().err.splitlines())


def test_bundle_is_an_alias_of_export(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("export", "bundle"):
        argv = ["keys", command, "alice", "-o", str(tmp_path / command), "--keys", str(directory)]
        monkeypatch.setattr("sys.argv", argv)
        assert __main__.main() == 0
    assert read_key_file(tmp_path / "export") == read_key_file(tmp_path / "bundle")
