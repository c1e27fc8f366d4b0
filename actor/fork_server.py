"""`python -m actor.fork_server FD`: the process that forks the actors of `--procs` and `--local-actors`."""

from __future__ import annotations

import os
import sys

from common.fork_server import serve
from common.lifecycle import leave


def main() -> int:
    """Serve; returns in each child, with the exit code of its actor."""
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch: one process, one core, and one thread to fork from
    from actor import __main__ as actor
    from actor import build  # noqa: F401  # loads what every actor needs

    sys.argv = ["actor", *serve(int(sys.argv[1]))]
    return actor.main()


if __name__ == "__main__":
    leave(main())
