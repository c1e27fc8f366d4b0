"""Key files: `python -m common.keys init|add|revoke|list|bundle`, and how learner and actor read them.

A key directory holds the learner's pair (`learner.json`), the pairs of its actors (`secrets/`), and who
of them is authorised (`authorised/`), one file per actor. A running learner reads the last within a
second of a change. Writing is atomic; a file that another program is copying revokes nobody.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common import arguments
from common.keys.curve import ActorKeys, KeyPair
from common.process.lifecycle import EXIT_CONFIGURATION, Fatal

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_FILE_BYTES = 4096
_SECRET_MODE, _DIRECTORY_MODE = 0o600, 0o700


class KeysError(Exception):
    """A key file or directory that cannot be used; one sentence."""


@dataclass(frozen=True, slots=True)
class KeyDirectory:
    """The learner's view of a key directory."""

    path: Path
    pair: KeyPair

    @staticmethod
    def open(path: Path) -> KeyDirectory:
        """Read the learner's own pair.

        Raises:
            KeysError: absent, damaged, or readable by others.
        """
        values = _read(path / "learner.json", ("public", "secret"))
        return KeyDirectory(path, _pair(values, path / "learner.json"))

    def authorised(self, before: Mapping[str, str] | None = None) -> tuple[dict[str, str], list[str]]:
        """Who may enter: names by public key; and a sentence for each file that cannot be used.

        Only the absence of a file revokes: one that cannot be used, for example because it is being
        copied, keeps the key that its name has in `before`, the names by public key of the last reading.

        Raises:
            KeysError: the directory cannot be read, or others may write to it.
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
        earlier = {name: key for key, name in (before or {}).items()}
        names: dict[str, str] = {}
        complaints = []
        for file in files:
            try:
                names[_read(file, ("public",))["public"]] = file.stem
            except KeysError as error:
                complaints.append(str(error))
                if file.stem in earlier:
                    names.setdefault(earlier[file.stem], file.stem)
        return names, complaints


def read_key_file(path: Path) -> ActorKeys:
    """What `bundle` wrote for one actor.

    Raises:
        KeysError: absent, damaged, or readable by others.
    """
    values = _read(path, ("learner", "name", "public", "secret"))
    return ActorKeys(values["name"], values["learner"], _pair(values, path))


def initialise(path: Path) -> bool:
    """Make a key directory with a pair for the learner; False if there is one."""
    if (path / "learner.json").exists():
        KeyDirectory.open(path)
        return False
    try:
        for folder in (path, path / "authorised", path / "secrets"):
            folder.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
            folder.chmod(_DIRECTORY_MODE)
    except OSError as error:
        raise KeysError(f"expected to make {path}, got {error.strerror}: choose another --keys") from None
    _write(path / "learner.json", dataclasses.asdict(KeyPair.new()))
    return True


def add(path: Path, name: str) -> bool:
    """Make a pair for a new actor and authorise it; False if it is authorised already."""
    _check_name(name)
    KeyDirectory.open(path)
    if (path / "authorised" / f"{name}.json").exists():
        return False
    pair = KeyPair.new()
    _write(path / "secrets" / f"{name}.json", dataclasses.asdict(pair))
    _write(path / "authorised" / f"{name}.json", {"public": pair.public})
    return True


def revoke(path: Path, name: str) -> None:
    """Authorise an actor no longer, and delete its pair; its file may be damaged."""
    folder = path / "authorised"
    _require_one_of([file.stem for file in folder.glob("*.json")], name)
    (folder / f"{name}.json").unlink()
    (path / "secrets" / f"{name}.json").unlink(missing_ok=True)


def bundle(path: Path, name: str, out: Path) -> None:
    """Write the one file that an actor's machine needs."""
    directory = KeyDirectory.open(path)
    _require_one_of(directory.authorised()[0].values(), name)
    source = path / "secrets" / f"{name}.json"
    pair = _pair(_read(source, ("public", "secret")), source)
    _write(out, {"learner": directory.pair.public, "name": name, **dataclasses.asdict(pair)})


def _require_one_of(authorised: Iterable[str], name: str) -> None:
    names = sorted(authorised)
    if name not in names:
        raise KeysError(f"expected an authorised actor ({', '.join(names) or 'there is none'}), got {name!r}")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise KeysError(f"expected a name of at most 32 of a-z, 0-9 and -, got {name!r}: choose another one")


def _read(path: Path, fields: tuple[str, ...]) -> dict[str, str]:
    """The fields of a key file. What is in the file never appears in a complaint."""
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
            f"expected {path} as python -m common.keys wrote it, got other content: make it anew with "
            "that command"
        )
    return dict(values)


def _pair(values: dict[str, str], path: Path) -> KeyPair:
    pair = KeyPair(values["public"], values["secret"])
    if not pair.fits():
        raise KeysError(f"expected a key pair in {path}, got halves of different ones: make it anew")
    return pair


def _checksum(values: dict[str, str]) -> str:
    """Finds damage, not forgery."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _write(path: Path, values: dict[str, str]) -> None:
    """Write a key file that nobody else can read, in one step."""
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
        raise KeysError(f"expected to write {path}, got {error.strerror}: choose another place") from None


def _parser() -> arguments.Parser:
    parser = arguments.Parser(
        prog="python -m common.keys", description="Decide which actors may join a learner."
    )
    shared = arguments.Parser(add_help=False)
    shared.add_argument(
        "--keys", type=Path, default=Path("keys"), metavar="DIR", help="the key directory (default keys)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", prog=parser.prog)
    commands.add_parser("init", parents=[shared], help="make a key directory, with the learner's pair")
    for command, text in (
        ("add", "authorise an actor"),
        ("revoke", "authorise it no longer; a learner that runs drops it within seconds"),
        ("bundle", "write the file that the actor's machine needs"),
    ):
        commands.add_parser(command, parents=[shared], help=text).add_argument("name", metavar="NAME")
    commands.choices["bundle"].add_argument("-o", dest="out", type=Path, required=True, metavar="FILE")
    commands.add_parser("list", parents=[shared], help="show who is authorised")
    return parser


def _run(options: argparse.Namespace) -> None:
    path: Path = options.keys
    match options.command:
        case "init":
            made = initialise(path)
            print(f"{path}: {'made' if made else 'there already'}; start the learner with --keys {path}")
        case "add":
            made = add(path, options.name)
            print(f"{options.name}: {'authorised' if made else 'authorised already'}; next: bundle")
        case "revoke":
            revoke(path, options.name)
            print(f"{options.name}: revoked")
        case "bundle":
            bundle(path, options.name, options.out)
            print(f"{options.out}: for python -m actor --learner HOST:PORT --keys {options.out.name}")
        case "list":
            names, complaints = KeyDirectory.open(path).authorised()
            for complaint in complaints:
                print(f"keys: {complaint}", file=sys.stderr)
            for key, name in sorted(names.items(), key=lambda item: item[1]):
                print(f"{name:32} {key}")


def main() -> int:
    """Change or show a key directory; returns the exit code."""

    def command() -> None:
        options = _parser().parse_args()
        try:
            _run(options)
        except KeysError as error:
            raise Fatal(EXIT_CONFIGURATION, str(error)) from None

    return arguments.exit_code(command, "keys")


if __name__ == "__main__":
    sys.exit(main())
