"""`python -m actor.fork_server FD`: forks the actors of `--procs` and `--local-actors`."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from common import log
from common.process.fork_server import serve


def main() -> NoReturn:
    """Serve fork requests in this process; run an actor in each child."""
    log.configure("fork_server")
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported: a process must have one thread to fork
    from actor import __main__ as actor
    from actor import build  # noqa: F401  # loads the modules that every actor needs

    sys.argv = ["actor", *serve(int(sys.argv[1]))]
    actor.main()


if __name__ == "__main__":
    main()
