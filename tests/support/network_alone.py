"""`python -m tests.support.network_alone PORT`: a server without a trainer in its own process."""

from __future__ import annotations

import sys

from common.config import Config
from common.process.lifecycle import stop_on_signals
from common.spaces import Spaces
from learner.server.server import Server


def main() -> None:
    """Serve until SIGTERM."""
    stop, config, port = stop_on_signals(), Config(), int(sys.argv[1])
    server = Server(config, Spaces((84, 84), 4, 7), 0, None, None)
    server.start([(f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port + 1}")])
    stop.wait()
    server.close()


if __name__ == "__main__":
    main()
