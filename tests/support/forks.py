"""`python -m tests.support.forks FD`: a fork server whose children do what their arguments say."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from common.process.fork_server import serve


def main() -> None:
    match serve(int(sys.argv[1])):
        case ["exit", code, *_]:
            sys.exit(int(code))
        case ["wait", _, parent]:  # until the parent closes its end
            socket.socket(fileno=int(parent)).recv(1)
        case ["facts", path]:
            facts = {
                "server": os.getppid(),
                "server_threads": len(list(Path(f"/proc/{os.getppid()}/task").iterdir())),
                "own_group": os.getpgid(0) == os.getpid(),
                "server_group": os.getpgid(os.getppid()) == os.getppid(),
                "stdin": _target(Path("/proc/self/fd/0")),
                "descriptors": {link.name: _target(link) for link in Path("/proc/self/fd").iterdir()},
                "terminated": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
            }
            Path(path).write_text(json.dumps(facts))
        case ["sleep"]:
            time.sleep(600)


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:  # the descriptor that listed the directory
        return ""


if __name__ == "__main__":
    main()
