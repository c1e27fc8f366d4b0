"""`python -m tests.support.network_alone PORT`: a network thread in its own process."""

from __future__ import annotations

import sys

from common.config import Config
from common.process.lifecycle import stop_on_signals
from common.protocol import codec
from common.spaces import Spaces
from learner.server.admission import Admission
from learner.server.network import Network
from learner.server.publisher import Publisher


def main() -> None:
    """Serve until SIGTERM."""
    stop, config, port = stop_on_signals(), Config(), int(sys.argv[1])
    limit = codec.message_limit_bytes(config.rollout, Spaces((84, 84), 4, 7))
    network = Network(Admission(config, 0, bytes(32)), Publisher(None), limit)
    network.start([(f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port + 1}")], lambda arrival: None)
    stop.wait()
    network.close()


if __name__ == "__main__":
    main()
