"""`python3 -m deploy.settings`: writes settings to `.env`, which every `docker compose` reads.

It needs no packages. Each call sets the tag of the images to the version and commit of this checkout, and
changes the settings of the options that are given; other lines of the file stay.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import subprocess
import sys
from pathlib import Path

from common import __version__

_ROOT = Path(__file__).parents[1]
_CPU, _GPU, _MACHINE = (
    "docker-compose.yml",
    "docker-compose.yml:deploy/compose.gpu.yml",
    "deploy/actor-machine.yml",
)
_BASE_MIB, _ACTOR_MIB = 512, 256  # of the parent with its fork server, and of each actor
_BASE_PIDS, _ACTOR_PIDS = 64, 16


def _commit() -> str:
    """Return the abbreviated commit of the checkout, marked if files differ; "unknown" outside a checkout."""
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limits(procs: int, cores: int) -> dict[str, str]:
    """Return the settings of a container with `procs` actors on a machine with `cores` cores."""
    return {
        "PROCS": str(procs),
        "PROCS_CPUS": str(min(procs, cores)),  # the engine refuses more than the machine has
        "PROCS_MEMORY": f"{_BASE_MIB + _ACTOR_MIB * procs}m",
        "PROCS_PIDS": str(_BASE_PIDS + _ACTOR_PIDS * procs),
    }


def chosen(options: argparse.Namespace, commit: str, cores: int) -> dict[str, str]:
    """Return the settings that the options choose."""
    settings = {"VERSION": __version__, "COMMIT": commit, "OUTRIDER_TAG": f"{__version__}-{commit}"}
    if options.tag is not None:
        settings = {"OUTRIDER_TAG": options.tag}
    if options.files is not None:
        settings["COMPOSE_FILE"] = options.files
    if options.publish is not None:
        settings["PUBLISH"] = options.publish
    if options.port is not None:
        settings |= {"LEARNER_PORT": str(options.port), "WEIGHTS_PORT": str(options.port + 1)}
    if options.learner is not None:
        settings |= {
            "COMPOSE_FILE": _MACHINE,
            "LEARNER": options.learner,
            "KEYS": str(options.keys.resolve()),
        }
        settings |= limits(options.procs or cores, cores)
    return settings


def merged(text: str, settings: dict[str, str]) -> str:
    """Return the text of a `.env` file with the settings replaced, or added at its end."""
    left = dict(settings)
    lines = []
    for line in text.splitlines():
        name = line.partition("=")[0].strip()
        if name not in settings:
            lines.append(line)
        elif name in left:
            lines.append(f"{name}={_quoted(left.pop(name))}")
    lines += [f"{name}={_quoted(value)}" for name, value in left.items()]
    return "".join(f"{line}\n" for line in lines)


def _quoted(value: str) -> str:
    return value if re.fullmatch(r"[\w./:@+-]*", value) else f"'{value}'"


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m deploy.settings",
        description="Write settings of Docker Compose to .env. Without options: only the tag of the images.",
    )
    device = parser.add_mutually_exclusive_group()
    device.add_argument(
        "--gpu",
        dest="files",
        action="store_const",
        const=_GPU,
        help="train on an NVIDIA GPU, with CUDA wheels",
    )
    device.add_argument("--cpu", dest="files", action="store_const", const=_CPU, help="train on the CPU")
    device.add_argument(
        "--learner",
        metavar="HOST:PORT",
        help="run only actors, for the learner at this address; needs --keys",
    )
    parser.add_argument("--keys", metavar="FILE", type=Path, help="key file, with --learner")
    parser.add_argument(
        "--procs",
        metavar="N",
        type=int,
        help="actors of this machine, with --learner (default: one per core)",
    )
    parser.add_argument(
        "--publish",
        metavar="ADDRESS",
        type=_ip_address,
        help="address of this machine on which actors of other machines connect",
    )
    parser.add_argument(
        "--port",
        metavar="PORT",
        type=int,
        help="published data port of the learner; weights use the next one",
    )
    parser.add_argument(
        "--tag", metavar="TAG", help="use images of this tag, for example of an earlier version"
    )
    options = parser.parse_args(argv)
    if (options.learner is None) != (options.keys is None):
        parser.error("expected --learner and --keys together, got one of them: add the other")
    if options.keys is not None and not options.keys.is_file():
        parser.error(f"expected a key file, got {options.keys}: copy it to this machine")
    if options.procs is not None and (options.learner is None or options.procs < 1):
        parser.error("expected --procs of at least 1 together with --learner")
    if options.port is not None and not 1 <= options.port <= 65_534:
        parser.error(f"expected --port in 1 to 65534, got {options.port}")
    return options


def _ip_address(text: str) -> str:
    """Return an address to which Docker can bind; it accepts no names."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected an IP address of this machine, or 0.0.0.0 for all of them, got {text!r}"
        ) from None


def main(argv: list[str] | None = None, file: Path = _ROOT / ".env") -> int:
    """Write the settings and print them; return the exit code."""
    settings = chosen(_parse(argv), _commit(), _cores())
    before = file.read_text() if file.exists() else ""
    file.write_text(merged(before, settings))
    print(f"{file}:")
    for name, value in settings.items():
        print(f"  {name}={value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
