"""`python -m deploy.machines add|status|scale|upgrade|remove`: runs actors on the engines of machines."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from common import arguments
from common.addresses import host_and_port, is_loopback_host
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_DONE, EXIT_TEMPORARY
from common.protocol.sockets import parse_address
from deploy.machines import engines, status
from deploy.machines.commands import IMAGE, Commands, Source
from deploy.machines.engines import Engine
from deploy.machines.errors import MachineError
from deploy.machines.keys import DirectoryKeys, Keys, VolumeKeys, compose_volume

_ENGINES = "OUTRIDER_ENGINES"
_PROJECT = "outrider"  # of docker-compose.yml


def parser() -> arguments.Parser:
    """The parser of the command line."""
    parser = arguments.Parser(
        prog="python -m deploy.machines",
        description="Run actors on the container engines of other machines.",
        epilog="ENGINE is [NAME=]ADDRESS, and ADDRESS a Docker context, ssh://USER@HOST or tcp://HOST:PORT. "
        f"Without ENGINE, the variable {_ENGINES} lists them.",
    )
    listed = arguments.Parser(add_help=False)
    listed.add_argument("engines", nargs="*", type=_engine, metavar="ENGINE", help="an engine")
    keyed = arguments.Parser(add_help=False)
    keyed.add_argument(
        "--keys",
        type=Path,
        metavar="DIR",
        help="the learner's key directory (default: the volume of its Compose project)",
    )
    keyed.add_argument(
        "--image", default=IMAGE, help=f"the image of the actors on this machine (default: {IMAGE})"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", prog=parser.prog)
    add = commands.add_parser("add", parents=[listed, keyed], help="make a key and start actors")
    add.add_argument(
        "--learner", required=True, type=_learner, metavar="HOST:PORT", help="address of the learner"
    )
    scale = commands.add_parser("scale", parents=[listed, keyed], help="set the number of processes")
    for command, default in ((add, "auto"), (scale, None)):
        command.add_argument(
            "--procs",
            type=_procs,
            default=default,
            required=default is None,
            metavar="N",
            help="actor processes of each machine, or auto: one for each core",
        )
    commands.add_parser("upgrade", parents=[listed, keyed], help="replace the image by that of this machine")
    commands.add_parser("remove", parents=[listed, keyed], help="drain and delete the actors; revoke the key")
    shown = commands.add_parser("status", parents=[listed], help="show the actors of every engine")
    for option, port in (("--page", 9101), ("--prometheus", 9090)):
        shown.add_argument(
            option,
            default=f"http://127.0.0.1:{port}",
            metavar="URL",
            help=f"address of the learner's {option.strip('-')} (default: http://127.0.0.1:{port})",
        )
    return parser


def _engine(text: str) -> Engine:
    try:
        return engines.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _learner(text: str) -> str:
    try:
        endpoint = parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if endpoint.startswith("ipc://") or is_loopback_host(host_and_port(endpoint)[0]):
        raise argparse.ArgumentTypeError(f"expected an address that other machines can reach, got {text!r}")
    return endpoint.removeprefix("tcp://")


def _procs(text: str) -> str:
    return text if text == "auto" else str(arguments.at_least(1, "auto")(text))


def _keys(options: argparse.Namespace) -> Keys:
    if options.keys is not None:
        return DirectoryKeys(options.keys)
    client = engines.connect_here()
    project = os.environ.get("COMPOSE_PROJECT_NAME", _PROJECT)
    return VolumeKeys(client, compose_volume(client, project), options.image)


def _change(options: argparse.Namespace) -> Callable[[Engine], None]:
    """The function that changes one machine."""
    commands = Commands(
        _keys(options), lambda: Source(engines.connect_here(), options.image), partial(print, flush=True)
    )
    match options.command:
        case "add":
            return lambda engine: commands.add(engine, options.learner, options.procs)
        case "scale":
            return lambda engine: commands.replace(engine, options.procs, upgrade=False)
        case "upgrade":
            return lambda engine: commands.replace(engine, None, upgrade=True)
        case _:
            return commands.remove


def change_each(targets: Sequence[Engine], change: Callable[[Engine], None]) -> int:
    """Change every machine; an error of one does not stop the others. Return the exit code."""
    errors = []
    for engine in targets:
        try:
            change(engine)
        except MachineError as error:
            errors.append(error)
            _print_error(engine, error)
    return _exit_code(errors)


def show(targets: Sequence[Engine], page: str, prometheus: str) -> int:
    """Print the status of every engine; return the exit code."""
    statuses = status.every_status(targets)
    print(status.table(targets, statuses, status.read_rates(page, prometheus)), flush=True)
    errors = []
    for engine, found in zip(targets, statuses, strict=True):
        if isinstance(found, MachineError):
            errors.append(found)
            _print_error(engine, found)
    return _exit_code(errors)


def _print_error(engine: Engine, error: MachineError) -> None:
    print(f"machines: {engine.name}: {error}", file=sys.stderr)


def _exit_code(errors: Sequence[MachineError]) -> int:
    codes = {error.code for error in errors}
    return EXIT_CONFIGURATION if EXIT_CONFIGURATION in codes else EXIT_TEMPORARY if codes else EXIT_DONE


def _run() -> int:
    command_line = parser()
    options = command_line.parse_args()
    targets: list[Engine] = options.engines
    if not targets and options.command != "remove":
        try:
            targets = [engines.parse(word) for word in os.environ.get(_ENGINES, "").split()]
        except ValueError as error:
            command_line.error(f"{_ENGINES}: {error}")
    if not targets:
        command_line.error("expected at least one ENGINE")
    names = [engine.name for engine in targets]
    if len(set(names)) < len(names):
        command_line.error(f"expected engines with different names, got {' '.join(names)}: write NAME=ENGINE")
    if options.command == "status":
        return show(targets, options.page, options.prometheus)
    try:
        change = _change(options)
    except MachineError as error:
        print(f"machines: {error}", file=sys.stderr)
        return error.code
    return change_each(targets, change)


def main() -> int:
    """Run a command; return the exit code."""
    return arguments.exit_code(_run, "machines")


if __name__ == "__main__":
    sys.exit(main())
