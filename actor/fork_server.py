"""`python -m actor.fork_server FD`: the process that forks the actors of `--procs` and `--local-actors`."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from common import log
from common.process.fork_server import serve


def main() -> NoReturn:
    """Serve; each child runs an actor, which ends the child's process."""
    log.configure("fork_server")
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch: one process, one core, and one thread to fork from
    from actor import __main__ as actor
    from actor import build  # noqa: F401  # loads what every actor needs

    sys.argv = ["actor", *serve(int(sys.argv[1]))]
    actor.main()


if __name__ == "__main__":
    main()
