"""`python -m tests.support.unread_weights CONNECTIONS`: a server whose weights are asked for and never read.

Prints the bytes of the weights, and by how many its resident memory grows.
"""

from __future__ import annotations

import sys

import psutil
import torch

from common.config import Config
from common.model.bundle import Bundle
from common.protocol import codec
from common.protocol.messages import WeightsRequest
from common.spaces import Spaces
from learner.server.publisher import WeightsBlob
from learner.server.server import Server
from tests.support import raw_peer
from tests.support.processes import free_port, wait_until

_WEIGHTS_BYTES = 16 * 2**20
_REQUESTS = 5  # of 16 pieces each: more than a send queue holds


def main() -> None:
    """Serve the weights to connections of this process."""
    target = WeightsBlob.of("target", Bundle(0, 0, {"weight": torch.ones(_WEIGHTS_BYTES // 4)}))
    server, port = Server(Config(), Spaces((84, 84), 4, 7), 0, target, None), free_port()
    server.start([(f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port + 1}")])
    connections = [raw_peer.connect(port + 1) for _ in range(int(sys.argv[1]))]
    before_bytes = psutil.Process().memory_info().rss
    (request,) = codec.encode(WeightsRequest(name="target", generation=-1, version=-1, piece=0, count=16))
    for connection in connections:
        connection.sendall(raw_peer.message(request) * _REQUESTS)
    answered = len(connections) * _REQUESTS
    wait_until(lambda: server.refresh_status().weights_pulls == answered, f"{answered} answers")
    print(target.meta.size, psutil.Process().memory_info().rss - before_bytes)
    for connection in connections:
        connection.close()
    server.close()


if __name__ == "__main__":
    main()
