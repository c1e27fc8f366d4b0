"""`python -m common.keys init|add|revoke|list|export`: changes or shows a key directory."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common import arguments
from common.keys import files
from common.keys.files import KeyDirectory, KeysError
from common.process.lifecycle import EXIT_CONFIGURATION, Fatal


def _parser() -> arguments.Parser:
    parser = arguments.Parser(
        prog="python -m common.keys", description="Manage the keys of the actors that may join a learner."
    )
    shared = arguments.Parser(add_help=False)
    shared.add_argument(
        "--keys", type=Path, default=Path("keys"), metavar="DIR", help="the key directory (default: keys)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", prog=parser.prog)
    commands.add_parser("init", parents=[shared], help="make a key directory with a key pair for the learner")
    for command, aliases, text in (
        ("add", (), "make a key pair for an actor and authorise it"),
        ("revoke", (), "revoke the key of an actor; a running learner ends its sessions within seconds"),
        ("export", ("bundle",), "write the key file that the actor's machine needs"),
    ):
        subparser = commands.add_parser(command, aliases=aliases, parents=[shared], help=text)
        subparser.add_argument("name", metavar="NAME", help="the actor's name")
    commands.choices["export"].add_argument(
        "-o", dest="out", type=Path, required=True, metavar="FILE", help="the file to write"
    )
    commands.add_parser("list", parents=[shared], help="show the authorised actors")
    return parser


def _run(options: argparse.Namespace) -> None:
    path: Path = options.keys
    match options.command:
        case "init":
            made = files.initialise(path)
            state = "made" if made else "exists already"
            print(f"{path}: {state}; start the learner with --keys {path}")
        case "add":
            added = files.add(path, options.name)
            print(f"{options.name}: {'authorised' if added else 'authorised already'}; next: export")
        case "revoke":
            files.revoke(path, options.name)
            print(f"{options.name}: revoked")
        case "export" | "bundle":
            files.export(path, options.name, options.out)
            print(f"{options.out}: for python -m actor --learner HOST:PORT --keys {options.out.name}")
        case "list":
            names, errors = KeyDirectory.open(path).authorised()
            for error in errors:
                print(f"keys: {error}", file=sys.stderr)
            for key, name in sorted(names.items(), key=lambda item: item[1]):
                print(f"{name:32} {key}")


def main() -> int:
    """Change or show a key directory; return the exit code."""

    def command() -> None:
        options = _parser().parse_args()
        try:
            _run(options)
        except KeysError as error:
            raise Fatal(EXIT_CONFIGURATION, str(error)) from None

    return arguments.exit_code(command, "keys")


if __name__ == "__main__":
    sys.exit(main())
